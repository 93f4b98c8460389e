//! How many connections and how many requests in flight on each.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Connections × depth, written `64x16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) connections: usize,
    pub(crate) depth: usize,
}

/// Most connections a case may ask for: each may have a socket, and 1,024 files may be open by default.
const MOST_CONNECTIONS: usize = 512;
/// Most requests in flight on a connection: the streams the servers allow it.
const MOST_DEPTH: usize = 1024;

/// The text is not a case.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a case: write connections x depth, such as 64x16, with up to {MOST_CONNECTIONS} connections \
     and a depth of up to {MOST_DEPTH}"
)]
pub(crate) struct NotACase(String);

impl FromStr for Case {
    type Err = NotACase;

    fn from_str(text: &str) -> Result<Self, NotACase> {
        let parse = || {
            let (connections, depth) = text.split_once('x')?;
            Some(Self { connections: connections.parse().ok()?, depth: depth.parse().ok()? })
        };
        parse()
            .filter(|case| (1..=MOST_CONNECTIONS).contains(&case.connections))
            .filter(|case| (1..=MOST_DEPTH).contains(&case.depth))
            .ok_or_else(|| NotACase(text.to_owned()))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.connections, self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_reads_as_it_is_written() {
        let case: Case = "64x16".parse().unwrap();
        assert_eq!((case.connections, case.depth), (64, 16));
        assert_eq!(case.to_string(), "64x16");
    }

    #[test]
    fn what_is_not_a_case_is_refused_by_name() {
        for text in
            ["", "64", "x", "0x1", "1x0", "513x1", "1x1025", "-1x1", "1x1x1", "99999999999999999999x1"]
        {
            assert_eq!(text.parse::<Case>(), Err(NotACase(text.to_owned())));
        }
    }
}
