//! Whole ceremonies of small circuits, and files that somebody changed.

use std::sync::{Arc, LazyLock};

use blstrs::Scalar;
use ff::Field;
use group::Curve as _;
use proptest::prelude::*;
use rand_core::OsRng;

use super::secret::Secret;
use super::*;
use crate::Policy;
use crate::zk::cache::KeyCache;
use crate::zk::curve::G1;
use crate::zk::reference::chain;
use crate::zk::tests::on_cases;
use crate::zk::{Claim, ConstraintSystem, KeyError, Prover, Setup, StatementKind, VerifyingKey, setup};

const MODEL: [u8; 32] = [7; 32];

fn beacon() -> Beacon {
    Beacon::new(&[9; 32], 4).unwrap()
}

/// Sends a file through three contributors, each of whom reads what the one before wrote, and returns what each wrote.
fn three(mut ceremony: Ceremony) -> Vec<Vec<u8>> {
    let mut files = vec![ceremony.to_bytes()];
    for name in ["first", "second", "third"] {
        ceremony = Ceremony::read(files.last().unwrap(), &()).unwrap();
        ceremony.contribute(name.as_bytes(), &()).unwrap();
        files.push(ceremony.to_bytes());
    }
    ceremony.finish(beacon(), &()).unwrap();
    files.push(ceremony.to_bytes());
    files
}

fn powers(file: &[u8]) -> Powers {
    Powers::read(file, &()).unwrap()
}

struct Fixture {
    system: Arc<ConstraintSystem>,
    assignment: Vec<Scalar>,
    /// The file at each stage: new, three contributions, finished.
    powers: Vec<Vec<u8>>,
    phase2: Vec<Vec<u8>>,
}

/// Powers for 2^6 constraints, the key of a circuit of 2^5.
static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let (system, assignment) = chain(20, 2, 3);
    let powers = three(Ceremony::Powers(Box::new(Powers::new(6).unwrap())));
    let new = Phase2::new(&system, MODEL, StatementKind::Open, &self::powers(&powers[4]), &()).unwrap();
    let phase2 = three(Ceremony::Phase2(Box::new(new)));
    Fixture { system: Arc::new(system), assignment, powers, phase2 }
});

fn wrong(file: &[u8]) -> (usize, Wrong) {
    match Ceremony::read(file, &()) {
        Err(CeremonyError::Contribution { number, wrong }) => (number, wrong),
        other => panic!("{other:?}"),
    }
}

/// Where the records of a file begin, and their length.
fn records(file: &[u8]) -> (usize, usize) {
    if file[10] == 1 { (16, 98 + 3 * 192) } else { (16 + 148, 98 + 192) }
}

#[test]
fn three_contributors_and_beacons_end_in_a_key_that_proves() {
    let Fixture { system, assignment, powers, phase2 } = &*FIXTURE;
    let powers = self::powers(&powers[4]);
    let finished = Phase2::read(&phase2[4], &()).unwrap();
    finished.check_initial(system, MODEL, StatementKind::Open, &powers, &()).unwrap();
    assert_eq!((finished.records().len(), finished.records()[3].beacon.as_ref()), (4, Some(&beacon())));

    let key = finished.key().unwrap();
    let origin = *key.verifying_key().origin();
    assert_eq!(origin.setup, Setup::Ceremony { transcript: finished.digest() });
    assert_eq!((origin.model, origin.circuit), (MODEL, system.digest()));
    let prover = Prover::new(Arc::clone(system), key.clone()).unwrap();
    let proof = prover.prove(assignment, &mut OsRng).unwrap();
    let read = VerifyingKey::from_bytes(&key.verifying_key().to_bytes()).unwrap();
    let claim = Claim { proof, inputs: assignment[1..3].to_vec() };
    assert_eq!(read.verify(std::slice::from_ref(&claim)), Ok(()));
    assert_eq!(read.check_policy(Policy::PRODUCTION), Ok(()));
    let mut other = claim;
    other.inputs[0] += Scalar::ONE;
    assert!(read.verify(&[other]).is_err());

    // A cache keeps it, and does not let a development key take its place.
    let folder = tempfile::tempdir().unwrap();
    let cache = KeyCache::new(folder.path());
    cache.keep(&key).unwrap();
    let development = setup::development(system, MODEL, StatementKind::Open, &mut OsRng).unwrap();
    assert!(cache.keep(&development).is_err());
    assert_eq!(development.verifying_key().check_policy(Policy::PRODUCTION), Err(KeyError::Development));
}

#[test]
fn the_initial_key_is_what_one_party_with_the_secrets_would_have_made() {
    let (system, _) = chain(20, 2, 3);
    let [tau, alpha, beta] = [(); 3].map(|()| Scalar::random(OsRng));
    let mut powers = Powers::new(6).unwrap();
    powers.multiply(&[tau, alpha, beta].map(Secret::new), None, &());
    powers.finish(beacon(), &()).unwrap();
    let [more_tau, more_alpha, more_beta] = beacon().secrets(&["τ", "α", "β"]).map(|secret| *secret.scalar());
    let key = setup::with_secrets(
        &system,
        MODEL,
        StatementKind::Open,
        [tau * more_tau, alpha * more_alpha, beta * more_beta, Scalar::ONE],
    )
    .unwrap();
    let phase2 = Phase2::new(&system, MODEL, StatementKind::Open, &powers, &()).unwrap();
    let lists = &phase2.initial.lists;
    assert_eq!((key.h(), key.l(), key.a()), (&*lists.h, &*lists.l, &*lists.a));
    assert_eq!((key.b_g1(), key.b_g2()), (&*lists.b_g1, &*lists.b_g2));
    assert!(key.verifying_key().points == phase2.initial.verifying);
}

#[test]
fn every_stage_reads_back_and_its_digest_is_in_the_last() {
    for files in [&FIXTURE.powers, &FIXTURE.phase2] {
        let last = Ceremony::read(&files[4], &()).unwrap();
        for (count, file) in files.iter().enumerate() {
            let read = Ceremony::read(file, &()).unwrap();
            assert_eq!((read.to_bytes(), read.records().len()), (file.clone(), count));
            assert_eq!(read.is_finished(), count == 4);
            assert_eq!(read.records(), last.records()[..count]);
        }
    }
}

#[test]
fn a_changed_record_is_named_by_its_number() {
    for files in [&FIXTURE.powers, &FIXTURE.phase2] {
        let (start, length) = records(&files[4]);
        for number in 1..=4 {
            for at in [0, 1, 5, 66, 97, 98, 98 + 48, 98 + 96, length - 1] {
                let mut file = files[4].clone();
                file[start + (number - 1) * length + at] ^= 1;
                assert_eq!(wrong(&file).0, number, "byte {at}");
            }
        }
    }
}

#[test]
fn records_that_were_swapped_repeated_or_left_out_are_named() {
    for files in [&FIXTURE.powers, &FIXTURE.phase2] {
        let (start, length) = records(&files[4]);
        let record = |number: usize| start + (number - 1) * length..start + number * length;
        let mut swapped = files[3].clone();
        swapped[record(2)].copy_from_slice(&files[3][record(3)]);
        swapped[record(3)].copy_from_slice(&files[3][record(2)]);
        assert!(matches!(wrong(&swapped), (2, Wrong::Unknown(_))));
        let mut repeated = files[3].clone();
        repeated.copy_within(record(2), record(3).start);
        assert!(matches!(wrong(&repeated), (3, Wrong::Unknown(_))));
        let without = |number: usize| {
            let mut file = files[4].clone();
            file.drain(record(number));
            file[start - 4..start].copy_from_slice(&3u32.to_le_bytes());
            file
        };
        assert_eq!(wrong(&without(1)).0, 1);
        assert_eq!(wrong(&without(3)).0, 3);
        // Without the beacon the records hold, but the points are those after it.
        assert_eq!(wrong(&without(4)), (3, Wrong::Changed));
    }
}

#[test]
fn points_that_do_not_follow_from_the_records_are_the_last_contributors() {
    let Fixture { powers, phase2, .. } = &*FIXTURE;
    for files in [powers, phase2] {
        let mut file = files[2].clone();
        let last = file.len() - 1;
        file[last] ^= 1;
        assert_eq!(wrong(&file), (2, Wrong::Changed));
        // The second contributor's points under the third's records.
        let (start, length) = records(&files[3]);
        let mut file = files[3][..start + 3 * length].to_vec();
        file.extend_from_slice(&files[2][start + 2 * length..]);
        assert_eq!(wrong(&file), (3, Wrong::Changed));
    }
    // Contributors who multiply by something else than they say.
    let cheat = |change: &dyn Fn(&mut Powers, Scalar)| {
        let mut powers = self::powers(&powers[2]);
        change(&mut powers, Scalar::random(OsRng));
        powers.multiply(&[(); 3].map(|()| Secret::draw(b"")), None, &());
        wrong(&powers.to_bytes())
    };
    let times = |point: &mut blstrs::G1Affine, scalar: Scalar| *point = (*point * scalar).to_affine();
    let points = |what| (3, Wrong::Points(what));
    assert_eq!(
        cheat(&|powers, scalar| times(&mut powers.points.tau[17], scalar)),
        points("in G1, not each is the one before times τ")
    );
    assert_eq!(
        cheat(&|powers, scalar| times(&mut powers.points.alpha[17], scalar)),
        points("with α, not each is the one before times τ")
    );
    assert_eq!(
        cheat(&|powers, scalar| times(&mut powers.points.beta[63], scalar)),
        points("with β, not each is the one before times τ")
    );
    assert_eq!(
        cheat(&|powers, scalar| times(&mut powers.points.beta[0], scalar)),
        points("τ, α and β are not those of the record")
    );
    assert_eq!(
        cheat(&|powers, scalar| powers.points.beta_g2 = (powers.points.beta_g2 * scalar).to_affine()),
        points("β differs in G1 and G2")
    );
    assert_eq!(
        cheat(&|powers, scalar| {
            powers.points.tau_g2[40] = (powers.points.tau_g2[40] * scalar).to_affine();
        }),
        points("in G2, not each is the one before times τ")
    );
    let cheat = |change: &dyn Fn(&mut Phase2, Scalar)| {
        let mut key = Phase2::read(&phase2[2], &()).unwrap();
        change(&mut key, Scalar::random(OsRng));
        key.multiply(&[Secret::draw(b"")], None, &());
        wrong(&key.to_bytes())
    };
    assert_eq!(
        cheat(&|key, scalar| times(&mut key.current.h[3], scalar)),
        points("h is not the initial h divided by δ")
    );
    assert_eq!(
        cheat(&|key, scalar| times(&mut key.current.l[3], scalar)),
        points("l is not the initial l divided by δ")
    );
    assert_eq!(
        cheat(&|key, scalar| key.current.delta_g2 = (key.current.delta_g2 * scalar).to_affine()),
        points("δ differs in G1 and G2")
    );
}

#[test]
fn a_ceremony_that_began_with_other_points_is_refused() {
    let Fixture { system, powers, phase2, .. } = &*FIXTURE;
    let (powers, finished) = (self::powers(&powers[4]), Phase2::read(&phase2[4], &()).unwrap());
    let check = |system: &ConstraintSystem, model, powers| {
        finished.check_initial(system, model, StatementKind::Open, powers, &()).unwrap_err()
    };
    assert_eq!(check(system, [8; 32], &powers), CeremonyError::Other("model"));
    assert_eq!(check(&chain(21, 2, 3).0, MODEL, &powers), CeremonyError::Other("circuit"));
    let other = self::powers(three(Ceremony::Powers(Box::new(Powers::new(5).unwrap()))).last().unwrap());
    assert_eq!(check(system, MODEL, &other), CeremonyError::Other("phase 1"));
    // Somebody began with a point of theirs, and honest people contributed.
    let mut forged = Phase2::new(system, MODEL, StatementKind::Open, &powers, &()).unwrap();
    forged.initial.verifying.ic[1] = (forged.initial.verifying.ic[1] * Scalar::from(5)).to_affine();
    forged.subject.initial = lists::digest(&phase2::write_initial(&forged.initial));
    forged.transcript = transcript::Transcript::new(phase2::PHASE, 5, &forged.subject.to_bytes(), ["δ"]);
    let forged = three(Ceremony::Phase2(Box::new(forged)));
    let forged = Phase2::read(&forged[4], &()).unwrap();
    assert_eq!(
        forged.check_initial(system, MODEL, StatementKind::Open, &powers, &()),
        Err(CeremonyError::Initial)
    );
}

#[test]
fn stages_follow_each_other() {
    let Fixture { system, powers, phase2, .. } = &*FIXTURE;
    for files in [powers, phase2] {
        let mut new = Ceremony::read(&files[0], &()).unwrap();
        assert_eq!(new.finish(beacon(), &()), Err(CeremonyError::Uncontributed));
        let mut finished = Ceremony::read(&files[4], &()).unwrap();
        assert_eq!(finished.contribute(b"", &()), Err(CeremonyError::Finished));
        assert_eq!(finished.finish(beacon(), &()), Err(CeremonyError::Finished));
    }
    let unfinished = self::powers(&powers[3]);
    let made = Phase2::new(system, MODEL, StatementKind::Open, &unfinished, &());
    assert_eq!(made.unwrap_err(), CeremonyError::Unfinished);
    assert_eq!(Phase2::read(&phase2[3], &()).unwrap().key().unwrap_err(), CeremonyError::Unfinished);
    let large = chain(70, 2, 3).0;
    assert_eq!(
        Phase2::new(&large, MODEL, StatementKind::Open, &self::powers(&powers[4]), &()).unwrap_err(),
        CeremonyError::TooFewPowers { needed: 7, found: 6 }
    );
    assert_eq!(Phase2::read(&powers[4], &()).unwrap_err(), CeremonyError::Phase { found: 1, expected: 2 });
    assert_eq!(Powers::new(0).unwrap_err(), CeremonyError::Size(0));
    assert_eq!(Powers::new(MAX_LOG + 1).unwrap_err(), CeremonyError::Size(25));
    assert_eq!(Beacon::new(&[1; 15], 0), Err(CeremonyError::Beacon));
    assert_eq!(Beacon::new(&[1; 32], 33), Err(CeremonyError::Beacon));
}

#[test]
fn a_beacon_of_another_value_or_in_the_middle_is_refused() {
    for files in [&FIXTURE.powers, &FIXTURE.phase2] {
        let (start, length) = records(&files[4]);
        let mut other = files[4].clone();
        other[start + 3 * length + 2] ^= 1;
        assert!(matches!(wrong(&other), (4, Wrong::Beacon(_))));
        let mut less = files[4].clone();
        less[start + 3 * length + 1] -= 1;
        assert!(matches!(wrong(&less), (4, Wrong::Beacon(_))));
        // A second one after it.
        let mut twice = files[4].clone();
        let record = twice[start + 3 * length..start + 4 * length].to_vec();
        twice.splice(start + 4 * length..start + 4 * length, record);
        twice[start - 4..start].copy_from_slice(&5u32.to_le_bytes());
        assert_eq!(wrong(&twice), (5, Wrong::Order));
    }
}

#[test]
fn points_outside_the_group_and_identities_are_refused() {
    let mut bytes = Vec::new();
    lists::write::<G1>(&mut bytes, &[blstrs::G1Affine::default()]);
    let file = &FIXTURE.phase2[0];
    let (start, _) = records(file);
    let subject = |file: &mut Vec<u8>| {
        let length = Phase2::read(&FIXTURE.phase2[0], &()).unwrap().subject.initial_len();
        let digest = lists::digest(&file[start..start + length]);
        file[12 + 96..12 + 128].copy_from_slice(&digest.0);
    };
    let mut identity = file.clone();
    identity[start..start + 48].copy_from_slice(&bytes);
    subject(&mut identity);
    let source = Malformed::Identity('·');
    let refused = CeremonyError::Point { list: "α and β", index: 0, source };
    assert_eq!(Ceremony::read(&identity, &()).unwrap_err(), refused);
    let mut outside = file.clone();
    outside[start + 48..start + 96].fill(0);
    outside[start + 48] = 0x80;
    let found = (1..=255).any(|x| {
        outside[start + 95] = x;
        subject(&mut outside);
        let source = Malformed::NotInGroup('·');
        Ceremony::read(&outside, &()).unwrap_err()
            == CeremonyError::Point { list: "α and β", index: 1, source }
    });
    assert!(found);
}

#[test]
fn cut_or_flipped_files_are_refused() {
    let Fixture { system, powers, phase2, .. } = &*FIXTURE;
    let change = || (0usize..2, 0usize..5, any::<prop::sample::Index>(), 0u8..8, any::<bool>());
    on_cases(change, |(phase, stage, at, bit, cut)| {
        let mut file = [powers, phase2][phase][stage].clone();
        let at = at.index(file.len());
        if cut {
            file.truncate(at)
        } else {
            file[at] ^= 1 << bit
        }
        match Ceremony::read(&file, &()) {
            Err(_) => {}
            // Where nobody has contributed, the subject may be anything: the model's check tells.
            Ok(Ceremony::Phase2(read)) => {
                prop_assert!(stage == 0 && (12..12 + 148).contains(&at));
                let powers = self::powers(&powers[4]);
                prop_assert!(read.check_initial(system, MODEL, StatementKind::Open, &powers, &()).is_err());
            }
            Ok(other) => prop_assert!(false, "{:?}", other.digest()),
        }
        Ok(())
    });
}

#[test]
fn any_bytes_are_refused() {
    let begin = &FIXTURE.powers[0][..12];
    let content = || (prop::collection::vec(any::<u8>(), 0..400), 1u8..3, 0u8..40);
    on_cases(content, |(bytes, phase, log)| {
        prop_assert!(Ceremony::read(&bytes, &()).is_err());
        let mut begun = begin.to_vec();
        (begun[10], begun[11]) = (phase, log);
        begun.extend_from_slice(&bytes);
        prop_assert!(Ceremony::read(&begun, &()).is_err());
        Ok(())
    });
}
