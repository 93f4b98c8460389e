use super::super::docketed::{Docketed, Shown};
use super::*;
use crate::proving::judge::Case;
use haca_wire::event::{ProofEvent, VerdictEvent, VerifierKey, proof_id};
use haca_wire::{Mode, PayerId, RequestId, SessionId};
use proptest::prelude::*;
use std::sync::Arc;

fn leaf(number: u8) -> Leaf {
    Leaf {
        mode: Mode::Zk,
        sealed: false,
        policy_epoch: 1,
        request: RequestId([number; 16]),
        session: SessionId([5; 16]),
        payer: PayerId::default(),
        node: NodeId([3; 32]),
        model: ModelId([4; 32]),
        input: Digest([6; 32]),
        output: Digest([7; 32]),
        evidence: Digest::default(),
        sequence: 8,
        received: 9,
        completed: 10,
        price: 0,
    }
}

fn proof(number: u8) -> ProofEvent {
    let id = proof_id(&leaf(number).hash());
    ProofEvent { id, index: 11, time: 12, key: Digest([13; 32]), proof: [14; PROOF_LEN] }
}

fn verdict(number: u8) -> VerdictEvent {
    VerifierKey::from_seed(&[15; 32]).verdict(&proof(number), 16, true, 17)
}

fn docketed(openings: &[Vec<u8>], keys: usize) -> Docketed {
    let shown = |(at, opening): (usize, &Vec<u8>)| Shown {
        case: Case {
            leaf: leaf(at as u8),
            proof: proof(at as u8),
            index: at as u64,
            opening: opening.clone(),
            key: Arc::from(vec![(at % keys) as u8; at % keys]),
        },
        receipt_path: vec![Digest([18; 32]); at % 4],
        proof_path: vec![Digest([19; 32]); at % 3],
    };
    let cases = openings.iter().enumerate().map(shown).collect();
    Docketed { checkpoint: "log\n1\nroot\n".to_owned(), consistency: vec![Digest([20; 32]); 2], cases }
}

proptest! {
    #[test]
    fn messages_come_back_as_they_were_sent(
        bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[ -~à-ÿ]{0,40}", numbers: (u64, u64), flag: bool,
        openings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..8), keys in 1usize..4,
    ) {
        let role = if flag { Role::Prover } else { Role::Verifier };
        let hello = Hello { role, circuits: numbers.1 as u32, key: Digest([1; 32]), signature: [2; 64] };
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        prop_assert_eq!(hello.encode().len(), Hello::LEN);
        let welcome = Welcome { node: NodeId([3; 32]), max_model_bytes: numbers.0 };
        prop_assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        let refusal = Refusal { may_pass: flag, why: text.clone() };
        prop_assert_eq!(Refusal::decode(&refusal.encode()), Ok(refusal));
        prop_assert_eq!(decode_ask(&encode_ask(numbers.0)), Ok(numbers.0));
        let announced = Announced { model: ModelId([4; 32]), sealed: flag };
        prop_assert_eq!(decode_announced(&encode_announced(announced)), Ok(announced));
        let position = OpeningPosition(numbers.0);
        let job = Job { position, index: numbers.1, leaf: leaf(1), opening: bytes.clone() };
        prop_assert_eq!(decode_job(&encode_job(&job)), Ok(job));
        let proven = Proven { position, proof: [4; PROOF_LEN], key: bytes };
        prop_assert_eq!(Proven::decode(&proven.encode()), Ok(proven));
        let unprovable = encode_unprovable(position, &text);
        prop_assert_eq!(decode_unprovable(&unprovable), Ok((position, text.clone())));
        let rulings: Vec<Ruling> = (0..openings.len() as u8)
            .map(|at| match at % 2 {
                0 => Ruling::Verdict(Box::new(verdict(at))),
                _ => Ruling::None(text.clone()),
            })
            .collect();
        prop_assert_eq!(decode_rulings(&encode_rulings(&rulings)), Ok(rulings));
        let docketed = docketed(&openings, keys);
        prop_assert_eq!(Docketed::decode(&docketed.encode()), Ok(docketed));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = (Hello::decode(&bytes), Welcome::decode(&bytes), Refusal::decode(&bytes), decode_ask(&bytes));
        let _ = (decode_job(&bytes), Proven::decode(&bytes), decode_unprovable(&bytes), decode_model(&bytes));
        let _ = (decode_rulings(&bytes), Docketed::decode(&bytes), decode_announced(&bytes));
    }

    #[test]
    fn changed_and_cut_messages_do_not_panic(
        openings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..4),
        at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let rulings = [Ruling::Verdict(Box::new(verdict(1))), Ruling::None("why".to_owned())];
        for mut bytes in [docketed(&openings, 2).encode(), encode_rulings(&rulings)] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = (Docketed::decode(&bytes), decode_rulings(&bytes));
            let cut = cut.index(bytes.len());
            let _ = (Docketed::decode(&bytes[..cut]), decode_rulings(&bytes[..cut]));
        }
    }
}

#[test]
fn a_service_of_other_circuits_is_told_both_versions() {
    let hello = |circuits| Hello { role: Role::Prover, circuits, key: Digest([1; 32]), signature: [2; 64] };
    assert_eq!(hello(CIRCUIT_VERSION).check_circuits(), Ok(()));
    let refusal = hello(CIRCUIT_VERSION + 1).check_circuits().unwrap_err();
    let versions = [CIRCUIT_VERSION, CIRCUIT_VERSION + 1].map(|version| format!("version {version}"));
    assert!(!refusal.may_pass && versions.iter().all(|version| refusal.why.contains(version)), "{refusal:?}");
}

#[test]
fn lengths_that_promise_more_than_there_is_are_refused() {
    let mut bytes = docketed(&[vec![1]], 1).encode();
    for at in [0, 4] {
        let kept = bytes[at..at + 4].to_vec();
        bytes[at..at + 4].fill(255);
        assert!(Docketed::decode(&bytes).is_err());
        bytes[at..at + 4].copy_from_slice(&kept);
    }
    assert!(Docketed::decode(&bytes).is_ok());
}

#[test]
fn a_long_text_is_cut_where_a_character_ends_and_shows_no_control() {
    let why = "é\n".repeat(600);
    let read = Refusal::decode(&Refusal { may_pass: true, why }.encode()).unwrap();
    assert!(read.why.len() <= 1024 && read.why.starts_with("é é"), "{}", read.why);
    assert!(Refusal::decode(&[&[0][..], &[b'a'; 1025]].concat()).is_err());
}
