//! A plan in numbers and in words.

use std::ops::Deref;

use schemars::JsonSchema;
use serde::Serialize;

use super::explain;
use crate::cost::parallel::Parallel;
use crate::cost::{Costs, PlanError, Planner};

/// Everything about one plan.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// In numbers; a report has them as if they were its own.
    #[serde(flatten)]
    pub costs: Costs,
    /// What matters most, or why it is withheld.
    pub headline: Vec<String>,
    /// In words.
    pub explanation: Vec<String>,
    /// What was assumed.
    pub assumptions: Vec<String>,
}

impl Deref for Report {
    type Target = Costs;

    fn deref(&self) -> &Costs {
        &self.costs
    }
}

impl Planner<'_> {
    /// Everything about one plan.
    ///
    /// # Errors
    /// If the plan does not fit the cluster or the model. A plan that does not fit the memory is reported.
    pub fn report(&mut self, parallel: &Parallel) -> Result<Report, PlanError> {
        let costs = self.costs(parallel)?;
        Ok(Report {
            headline: explain::headline(&costs),
            explanation: explain::words(self, &costs)?,
            assumptions: explain::assumptions(self, costs.protocol),
            costs,
        })
    }
}
