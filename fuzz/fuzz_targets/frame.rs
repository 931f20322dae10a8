//! The decoder of frames: whatever the bytes are, it does not panic, and what it reads lies within them and is
//! written the same.
#![no_main]

use backplane_core::driver::Frame;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(frame) = Frame::decode(&bytes) else {
        return;
    };
    let payloads: Vec<Bytes> = frame.payloads().collect();
    assert!(!payloads.is_empty());
    assert_eq!(payloads.len(), frame.len());
    let place = bytes.as_ptr_range();
    for payload in payloads.iter().filter(|payload| !payload.is_empty()) {
        let part = payload.as_ptr_range();
        assert!(place.start <= part.start && part.end <= place.end);
    }
    let encoded = frame.encode();
    assert_eq!(encoded.len(), frame.encoded_len());
    let again = Frame::decode(&encoded).expect("what was written can be read");
    assert_eq!(again.publisher(), frame.publisher());
    assert_eq!(again.sequence(), frame.sequence());
    assert_eq!(again.is_start(), frame.is_start());
    assert!(again.payloads().eq(payloads));
});
