//! The formalism of kmr: knobs, meters' readings, budgets, policies and the loop that drives them.
//!
//! Follows "Formal Algorithms for Model Efficiency" (arXiv 2508.14000): [`budgeted_kmr`] is its
//! Algorithm 1, an [`Action`] of several changes its Algorithm 10, and Proposition 1 (cost never
//! rises, the loop halts) is held by the property tests. What the loop works on is a [`Subject`]:
//! this crate knows no graph, no file format and no plugin.
//!
//! ```
//! use kmr_core::*;
//!
//! /// Twenty bytes, four fewer per level, and a quality that falls with each.
//! struct Toy;
//!
//! impl Subject for Toy {
//!     type Error = std::convert::Infallible;
//!     fn knobs(&mut self) -> Result<Vec<Knob>, Self::Error> {
//!         let values = [0.0, 0.2, 0.4].map(Value::Number).to_vec();
//!         Ok(vec![Knob::new("prune", "sparsity", "all", Role::Reduce, values)])
//!     }
//!     fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<Self::Error>> {
//!         Ok(Costs::from([("size_bytes".into(), 20.0 - 4.0 * at[0] as f64)]))
//!     }
//!     fn quality(&mut self, at: &Assignment, _: Fidelity) -> Result<Quality, SubjectError<Self::Error>> {
//!         Ok(Quality::new(0.9 - 0.01 * at[0] as f64, 100))
//!     }
//!     fn adopt(&mut self, _: &Assignment) -> Result<(), Self::Error> {
//!         Ok(())
//!     }
//! }
//!
//! let objective = Objective::new(Budget::at_most("size_bytes", 13.0)?).with_floor(Floor::DropAtMost(0.05));
//! let conclusion = budgeted_kmr(&mut Toy, &mut Greedy::default(), &objective, &Options::default(), &mut Silent)?;
//! assert_eq!(conclusion.outcome, Outcome::Feasible);
//! assert_eq!(conclusion.best.measurement.costs["size_bytes"], 12.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod algorithm;
mod assignment;
mod budget;
pub mod frontier;
mod history;
mod knob;
mod measurement;
mod outcome;
mod policy;
mod stages;
pub mod statistics;
mod subject;

pub use algorithm::{EarlyRejection, KmrError, Objective, OnNoProgress, Options, budgeted_kmr};
pub use assignment::{Action, ActionError, Assignment, Change};
pub use budget::{Budget, BudgetError, Floor, Limit, Standing, Unmeasurable};
pub use history::{History, Probe, Record, Rejection, Remaining, SCHEMA, State, Trial};
pub use knob::{Knob, KnobError, Knobs, Role, Value};
pub use measurement::{Costs, Fidelity, Measurement, Quality};
pub use outcome::{Blocked, Conclusion, Exhaustion, Outcome, Reached};
pub use policy::{
    Ask, Curve, Evolve, EvolveSettings, Greedy, Knapsack, KnapsackSettings, Policy, PolicyError, Refinement, Scheduled,
};
pub use stages::{Pipeline, PipelineConclusion, PipelineError, Stage, StageRule, run_stages};
pub use subject::{Event, Observer, Silent, StagedSubject, Subject, SubjectError};
