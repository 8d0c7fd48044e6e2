//! What PTX leaves undefined and hardware may tolerate: how bad a finding is, and which findings are known and accepted.
//!
//! Invariant: a finding that is waived is told with the reason all the same, see [`crate::Cluster::findings`].

use std::ops::RangeInclusive;

use crate::names::demangled;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// What a branch, an address or a store to device memory depends on comes from memory that nobody wrote.
    Uninitialised,
    /// It comes from a register that was never written.
    UnwrittenRegister,
    /// It comes from a lane that took no part in a shuffle.
    AbsentLane,
    /// Lanes of a warp execute different barriers at once that are `.aligned`.
    DivergentBarrier,
    /// An address leaves the variable in shared memory that it was made from. It is an error or is not looked for; a waiver of it names
    /// the variable.
    LeavesVariable,
    /// What an asynchronous copy reads is overwritten, or what it writes is accessed, while it is under way.
    CopyInFlight,
    /// A [`crate::Judge`] finds accesses that nothing orders.
    MemoryOrder,
    /// A [`crate::Judge`] finds accesses in order that the letter of the PTX model wants a proxy fence between, where most kernels go
    /// without and are right on hardware that is known: what threads have read is overwritten by a bulk copy, and what a bulk copy of another
    /// CTA wrote is copied on. It is ignored unless it is asked for.
    StrictProxies,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 8] = [
        Rule::Uninitialised,
        Rule::UnwrittenRegister,
        Rule::AbsentLane,
        Rule::DivergentBarrier,
        Rule::LeavesVariable,
        Rule::CopyInFlight,
        Rule::MemoryOrder,
        Rule::StrictProxies,
    ];

    /// As a job file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Uninitialised => "uninitialised",
            Rule::UnwrittenRegister => "unwritten-register",
            Rule::AbsentLane => "absent-lane",
            Rule::DivergentBarrier => "divergent-barrier",
            Rule::LeavesVariable => "leaves-variable",
            Rule::CopyInFlight => "copy-in-flight",
            Rule::MemoryOrder => "memory-order",
            Rule::StrictProxies => "strict-proxies",
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It ends the run.
    #[default]
    Error,
    /// It is told, and the run goes on.
    Warning,
    /// It is not told.
    Ignored,
}

/// A finding that is known and accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// Of these rules; of all if there are none.
    pub rules: Vec<Rule>,
    /// Of this kernel, as PTX or as its source calls it, or of all kernels that are made from this template; of all if it is not said.
    pub kernel: Option<String>,
    /// At these lines of the PTX text; at all if it is not said.
    pub lines: Option<RangeInclusive<u32>>,
    /// Of the place with this name, or part of it.
    pub symbol: Option<String>,
    /// Why it is accepted. The report repeats it.
    pub reason: String,
}

/// How bad findings are, and which are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    severities: Vec<(Rule, Severity)>,
    waivers: Vec<Waiver>,
}

/// What becomes of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Is(Severity),
    Waived(String),
}

/// Where a finding is: kernels and lines, and the place in memory if it is known.
pub(crate) struct Found<'f> {
    pub sites: &'f [(&'f str, u32)],
    pub symbol: Option<&'f str>,
}

impl Rules {
    /// Findings of a rule are as bad as this; they are errors unless it is said, but for [`Rule::StrictProxies`].
    #[must_use]
    pub fn with(mut self, rule: Rule, severity: Severity) -> Rules {
        self.severities.retain(|(other, _)| *other != rule);
        self.severities.push((rule, severity));
        self
    }

    /// Accepts what a waiver describes.
    #[must_use]
    pub fn waive(mut self, waiver: Waiver) -> Rules {
        self.waivers.push(waiver);
        self
    }

    /// How bad findings of a rule are.
    pub fn severity(&self, rule: Rule) -> Severity {
        let said = self.severities.iter().find(|(other, _)| *other == rule).map(|(_, severity)| *severity);
        said.unwrap_or(if rule == Rule::StrictProxies { Severity::Ignored } else { Severity::Error })
    }

    pub(crate) fn verdict(&self, rule: Rule, found: &Found<'_>) -> Verdict {
        let severity = self.severity(rule);
        if severity == Severity::Ignored {
            return Verdict::Is(severity);
        }
        let waived = self.waivers.iter().find(|waiver| {
            let here = |&(kernel, line): &(&str, u32)| {
                waiver.kernel.as_ref().is_none_or(|name| is_called(kernel, name))
                    && waiver.lines.as_ref().is_none_or(|lines| lines.contains(&line))
            };
            (waiver.rules.is_empty() || waiver.rules.contains(&rule))
                && found.sites.iter().any(here)
                && waiver.symbol.as_ref().is_none_or(|name| found.symbol.is_some_and(|symbol| is_of(symbol, name)))
        });
        waived.map_or(Verdict::Is(severity), |waiver| Verdict::Waived(waiver.reason.clone()))
    }
}

/// Whether a kernel has this name, with or without the arguments of its template.
fn is_called(kernel: &str, name: &str) -> bool {
    let of_source = demangled(kernel);
    kernel == name || of_source == name || of_source.split_once('<').is_some_and(|(template, _)| template == name)
}

/// Whether a symbol, as reports write it (`` `name+8` of rank 1 ``), is that of a name or a place in it, with or without what the name is in
/// (`function(int)::name`).
fn is_of(symbol: &str, name: &str) -> bool {
    let whole = symbol.trim_start_matches('`');
    let last = whole.rsplit_once("::").map_or(whole, |(_, last)| last);
    let begins = |symbol: &str| {
        symbol.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', '-', '`', ' ']))
    };
    begins(whole) || begins(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiver() -> Waiver {
        Waiver { rules: Vec::new(), kernel: None, lines: None, symbol: None, reason: "known".into() }
    }

    #[test]
    fn a_waiver_is_for_what_it_describes() {
        let found = Found { sites: &[("k", 7), ("other", 20)], symbol: Some("`flag+4` of rank 1") };
        let accepts = |waiver: Waiver| {
            Rules::default().waive(waiver).verdict(Rule::MemoryOrder, &found) == Verdict::Waived("known".into())
        };
        assert!(accepts(waiver()));
        assert!(accepts(Waiver { kernel: Some("k".into()), lines: Some(5..=7), ..waiver() }));
        assert!(accepts(Waiver { lines: Some(20..=20), symbol: Some("flag".into()), ..waiver() }));
        assert!(
            !accepts(Waiver { kernel: Some("k".into()), lines: Some(20..=20), ..waiver() }),
            "line 20 is of another one"
        );
        assert!(!accepts(Waiver { symbol: Some("fl".into()), ..waiver() }));
        assert!(
            is_of("k<2>(int)::tail+8", "tail") && is_of("k<2>(int)::tail", "k<2>(int)::tail") && !is_of("k::tail", "k")
        );
        assert!(!accepts(Waiver { rules: vec![Rule::AbsentLane], ..waiver() }));
    }

    #[test]
    fn a_kernel_has_its_name_in_ptx_in_the_source_and_of_its_template() {
        let found = Found { sites: &[("_ZN6deepep8dispatchILi8EEEvPKfPf", 7)], symbol: None };
        let accepts = |name: &str| {
            let rules = Rules::default().waive(Waiver { kernel: Some(name.into()), ..waiver() });
            rules.verdict(Rule::MemoryOrder, &found) == Verdict::Waived("known".into())
        };
        for name in ["_ZN6deepep8dispatchILi8EEEvPKfPf", "deepep::dispatch<8>", "deepep::dispatch"] {
            assert!(accepts(name), "{name}");
        }
        for name in ["dispatch", "deepep::dispatch<4>", "deepep"] {
            assert!(!accepts(name), "{name}");
        }
    }

    #[test]
    fn the_severity_said_last_counts() {
        let rules =
            Rules::default().with(Rule::AbsentLane, Severity::Warning).with(Rule::AbsentLane, Severity::Ignored);
        assert_eq!(rules.severity(Rule::AbsentLane), Severity::Ignored);
        assert_eq!(rules.severity(Rule::CopyInFlight), Severity::Error);
    }
}
