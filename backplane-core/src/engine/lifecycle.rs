//! The life of a node as a pure state machine: no clock, no socket. The supervisor does what it says.

use crate::state::{ConnectionState, Disconnect};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A link was opened.
    Opened,
    /// Every desired subscription is in force on the link, and messages get through.
    Attached,
    /// No link could be opened, or the link is dead.
    Failed(Disconnect),
    /// The pause is over.
    PauseOver,
    /// The node is to be closed.
    Close,
}

/// What to do next. Each step ends with one [`Input`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open a link.
    Open,
    /// Subscribe everything that is desired on the link, and prove that messages get through.
    Attach,
    /// Keep the subscriptions right and the heart beating until the link is dead.
    Serve,
    /// Drop the link, if there is one, and wait; so many failures in a row.
    Pause { failures: u32 },
    /// End everything.
    Finish,
}

/// A step, and the state to announce before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) announce: Option<ConnectionState>,
    pub(crate) step: Step,
}

/// Where a node stands.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    step: Step,
    /// How often the node was attached.
    generation: u64,
    /// Tries since the node was attached.
    attempts: u32,
    failures: u32,
}

impl Lifecycle {
    pub(crate) const fn new() -> Self {
        Self {
            step: Step::Open,
            generation: 0,
            attempts: 1,
            failures: 0,
        }
    }

    /// The state of a node that has just started, and its first step.
    pub(crate) const fn first() -> (ConnectionState, Step) {
        (ConnectionState::Connecting { attempt: 1 }, Step::Open)
    }

    pub(crate) fn on(&mut self, input: Input) -> Turn {
        let turn = match (self.step, input) {
            (Step::Finish, _) => Turn {
                announce: None,
                step: Step::Finish,
            },
            (_, Input::Close) => Turn {
                announce: Some(ConnectionState::Closed),
                step: Step::Finish,
            },
            (Step::Open, Input::Opened) => Turn {
                announce: None,
                step: Step::Attach,
            },
            (Step::Attach, Input::Attached) => {
                self.generation += 1;
                self.attempts = 0;
                self.failures = 0;
                let state = ConnectionState::Connected {
                    generation: self.generation,
                };
                Turn {
                    announce: Some(state),
                    step: Step::Serve,
                }
            }
            (Step::Open | Step::Attach | Step::Serve, Input::Failed(reason)) => {
                self.failures = self.failures.saturating_add(1);
                let state = ConnectionState::Disconnected { reason };
                Turn {
                    announce: Some(state),
                    step: Step::Pause {
                        failures: self.failures,
                    },
                }
            }
            (Step::Pause { .. }, Input::PauseOver) => {
                self.attempts = self.attempts.saturating_add(1);
                let state = ConnectionState::Connecting {
                    attempt: self.attempts,
                };
                Turn {
                    announce: Some(state),
                    step: Step::Open,
                }
            }
            // What a step cannot end with changes nothing: it is done again.
            (step, _) => Turn {
                announce: None,
                step,
            },
        };
        self.step = turn.step;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::DisconnectKind;

    fn lost() -> Input {
        Input::Failed(Disconnect::new(DisconnectKind::Lost, "gone"))
    }

    fn run(life: &mut Lifecycle, inputs: impl IntoIterator<Item = Input>) -> Vec<String> {
        inputs
            .into_iter()
            .map(|input| {
                let turn = life.on(input);
                let state = turn.announce.map(|s| s.to_string()).unwrap_or_default();
                format!("{state} > {:?}", turn.step)
            })
            .collect()
    }

    #[test]
    fn a_node_attaches_loses_its_link_and_attaches_again() {
        let mut life = Lifecycle::new();
        let told = run(
            &mut life,
            [
                Input::Opened,
                Input::Attached,
                lost(),
                Input::PauseOver,
                lost(),
                Input::PauseOver,
                Input::Opened,
                Input::Attached,
            ],
        );
        assert_eq!(
            told,
            [
                " > Attach",
                "connected (generation 1) > Serve",
                "disconnected: gone > Pause { failures: 1 }",
                "connecting (attempt 1) > Open",
                "disconnected: gone > Pause { failures: 2 }",
                "connecting (attempt 2) > Open",
                " > Attach",
                "connected (generation 2) > Serve",
            ]
        );
    }

    #[test]
    fn a_link_that_dies_while_attaching_was_never_connected() {
        let mut life = Lifecycle::new();
        let told = run(&mut life, [Input::Opened, lost(), Input::PauseOver]);
        assert_eq!(
            told,
            [
                " > Attach",
                "disconnected: gone > Pause { failures: 1 }",
                "connecting (attempt 2) > Open"
            ]
        );
    }

    #[test]
    fn failures_never_end_it_and_close_always_does() {
        let mut life = Lifecycle::new();
        for failures in 1..=100_000 {
            assert_eq!(life.on(lost()).step, Step::Pause { failures });
            assert_eq!(life.on(Input::PauseOver).step, Step::Open);
        }
        let mut closed_from = Vec::new();
        for inputs in [
            vec![],
            vec![Input::Opened],
            vec![Input::Opened, Input::Attached],
            vec![lost()],
        ] {
            let mut life = Lifecycle::new();
            run(&mut life, inputs);
            closed_from.push(life.step);
            assert_eq!(
                life.on(Input::Close).announce,
                Some(ConnectionState::Closed)
            );
            let after = Turn {
                announce: None,
                step: Step::Finish,
            };
            assert_eq!(life.on(Input::Attached), after);
            assert_eq!(life.on(Input::Close), after);
        }
        assert_eq!(closed_from.len(), 4);
    }
}
