//! What HACA says on the wire: schemas, framing, ids, hashes, the receipt and its signing.
