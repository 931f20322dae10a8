use std::collections::HashSet;

use rand::SeedableRng;

use super::*;

/// A state with one node, which these faults have hit.
fn broken(faults: &[FaultKind]) -> State {
    let mut state = State::new(FaultKind::ALL.to_vec());
    state.nodes[0] = Some(0);
    state.faults = faults.to_vec();
    state
}

fn breaking(kinds: &[FaultKind]) -> Op {
    let faults = kinds.iter().map(|kind| Break {
        kind: *kind,
        node: 0,
    });
    Op::Break {
        faults: faults.collect(),
        noticed: false,
    }
}

fn flapping(kind: FaultKind) -> Op {
    Op::Flap {
        fault: Break { kind, node: 0 },
        times: 1,
        lasting: 0,
    }
}

#[test]
fn what_delivers_nothing_and_what_refuses_messages_are_not_in_force_together() {
    let [mute, refuse] = [FaultKind::Mute, FaultKind::OutOfMemory];
    for [one, other] in [[mute, refuse], [refuse, mute]] {
        assert!(broken(&[]).allows(&breaking(&[one])));
        assert!(!broken(&[]).allows(&breaking(&[one, other])));
        assert!(!broken(&[one]).allows(&breaking(&[other])));
        assert!(!broken(&[one]).allows(&breaking(&[FaultKind::Delay, other])));
        assert!(broken(&[]).allows(&flapping(one)));
        assert!(!broken(&[one]).allows(&flapping(other)));
        for kind in FaultKind::ALL.into_iter().filter(|kind| *kind != other) {
            assert!(
                broken(&[]).allows(&breaking(&[one, kind])),
                "{one:?} {kind:?}"
            );
            assert!(broken(&[one]).allows(&flapping(kind)), "{one:?} {kind:?}");
        }
    }
}

#[test]
fn every_kind_of_fault_is_drawn_alone_and_besides_every_other_one_that_it_may_be_with() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut drawn = HashSet::new();
    let mut state = State::new(FaultKind::ALL.to_vec());
    for _ in 0..50_000 {
        let op = state.draw(&mut rng);
        let new = match &op {
            Op::Break { faults, .. } => faults.iter().map(|fault| fault.kind).collect(),
            Op::Flap { fault, .. } => vec![fault.kind],
            _ => Vec::new(),
        };
        let known = state.faults.iter().copied();
        let together: Vec<FaultKind> = known.chain(new.iter().copied()).collect();
        for one in new {
            drawn.extend(together.iter().map(|other| (*other, one)));
        }
        state = state.next(&op);
    }
    for one in FaultKind::ALL {
        for other in FaultKind::ALL {
            let total = one.is_total() && other.is_total();
            let may = one == other || !total && !one.is_blind_with(other);
            let was = drawn.contains(&(one, other)) || drawn.contains(&(other, one));
            assert_eq!(was, may, "{one:?} and {other:?}");
        }
    }
}
