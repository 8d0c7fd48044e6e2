//! The decision itself.

use moe_contract::{Exchange, Launch, Protocol, Topology};
use moe_front::diagnostics::{BuildProblem, Diagnostic, Diagnostics};
use moe_front::spec::{DeployId, Mode, Spec, Target};

use crate::built;
use crate::choice::{Choice, ChoiceError};
use crate::launch;
use crate::numbers::Numbers;

/// What a deploy is built and planned as.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Ranks, and which of them reach each other's memory.
    pub topology: Topology,
    /// How rows travel.
    pub protocol: Protocol,
    /// CTAs and threads.
    pub launch: Launch,
    /// What kernels are, or would be, specialised to. Unless `not_built` has an error, every limit is kept.
    pub exchange: Exchange,
    /// What is compiled for.
    pub targets: Vec<Target>,
    /// What is planned and checked, and not built, or not as the file asks.
    pub not_built: Vec<Diagnostic>,
}

impl Decision {
    /// Of a deploy, with what the command line changes.
    ///
    /// # Errors
    /// If the command line asks for what the deploy does not allow.
    pub fn of(spec: &Spec, id: DeployId, choice: &Choice) -> Result<Decision, ChoiceError> {
        let deploy = &spec.deploys[id];
        let (model, cluster) = (&spec.models[deploy.model], &spec.clusters[deploy.cluster]);
        let written = Numbers::of(deploy, cluster);
        let nodes = choice.nodes.unwrap_or_else(|| written.topology().domains());
        let gpus_per_node = choice.gpus_per_node.unwrap_or_else(|| written.topology().per_domain);
        let overridden = choice.nodes.is_some() || choice.gpus_per_node.is_some();
        if overridden && nodes != 1 {
            return Err(ChoiceError::Nodes { nodes, gpus_per_node });
        }
        let (tokens, most) = (choice.tokens.unwrap_or(written.tokens), written.tokens);
        if tokens > most {
            return Err(ChoiceError::Tokens { tokens, deploy: deploy.name.clone(), most });
        }
        let on_one_node = Numbers { ranks: gpus_per_node, per_node: gpus_per_node, ..written };
        let numbers = Numbers { tokens, ..if overridden { on_one_node } else { written } };
        let mut decision = Decision::with(spec, id, &numbers);
        if !choice.targets.is_empty() {
            decision.targets.clear();
            choice.targets.iter().for_each(|target| {
                if !decision.targets.contains(target) {
                    decision.targets.push(*target);
                }
            });
        }
        match decision.exchange.check() {
            Err(limit) if overridden && built::of_model(model).is_empty() => {
                Err(ChoiceError::Limit { model: model.name.clone(), limit })
            }
            _ => Ok(decision),
        }
    }

    /// Of a deploy with other numbers than are written.
    pub fn with(spec: &Spec, id: DeployId, numbers: &Numbers) -> Decision {
        let deploy = &spec.deploys[id];
        let (model, cluster) = (&spec.models[deploy.model], &spec.clusters[deploy.cluster]);
        let topology = numbers.topology();
        let launch = launch::launch(numbers, cluster, model.combine.payload.row_bytes(model.hidden));
        let exchange = model.exchange(numbers.ranks, numbers.tokens, launch);
        let protocol = match (topology.domains(), numbers.mode) {
            (1, Mode::Throughput | Mode::Latency) => Protocol::Direct,
            (_, Mode::Throughput) => Protocol::Hybrid,
            (_, Mode::Latency) => Protocol::Messages,
        };
        let mut problems = built::of_model(model);
        let span = deploy.place;
        let (ranks, nodes, per_node) = (topology.ranks, topology.domains(), topology.per_domain);
        match protocol {
            Protocol::Hybrid | Protocol::Messages => {
                problems.push(BuildProblem::Nodes { span, ranks, nodes, per_node, mode: numbers.mode });
            }
            Protocol::Direct => {
                if numbers.mode == Mode::Latency {
                    problems.push(BuildProblem::Latency { span });
                }
                if let Err(limit) = exchange.check()
                    && problems.iter().all(|problem| !problem.is_of_model())
                {
                    problems.push(BuildProblem::Limit { span, limit: limit.to_string() });
                }
            }
        }
        let not_built = problems.into_iter().map(Diagnostic::from).collect();
        Decision { topology, protocol, launch, exchange, targets: vec![cluster.gpu.target], not_built }
    }

    /// What kernels are specialised to.
    ///
    /// # Errors
    /// What there are no kernels for.
    pub fn built(&self) -> Result<Exchange, Diagnostics> {
        let problems: Diagnostics = self.not_built.iter().cloned().collect();
        if problems.has_errors() { Err(problems) } else { Ok(self.exchange) }
    }
}
