//! The parameters of a gate: numbers of the host, and where they are on the device.
//!
//! Invariant: [`GateParameters`] has one array for each parameter of the bundle's gate, in the order of the kernel's arguments, each of
//! the size that its kind says.

use std::collections::BTreeMap;
use std::sync::Arc;

use moe_bundle::GateDescription;
use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_contract::{Element, Number, RankId};

use super::Communicator;
use crate::device::{Address, Device, Memory};
use crate::error::{Error, Result};
use crate::tensor::CallerPart;

/// The parameters of a gate by name, without the logits, on the host.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Numbers>);

/// What a caller passes for a parameter.
#[derive(Clone, Debug)]
enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
    I32PerRank(Vec<Vec<i32>>),
}

impl Parameters {
    /// Those of a gate that has none.
    pub fn none() -> Parameters {
        Parameters::default()
    }

    /// Adds an f32 parameter: a scalar, one number per expert, or one per group.
    #[must_use]
    pub fn f32(mut self, name: &str, values: &[f32]) -> Parameters {
        self.0.insert(name.into(), Numbers::F32(values.into()));
        self
    }

    /// Adds a table of experts, row-major.
    #[must_use]
    pub fn table(mut self, name: &str, experts: &[i32]) -> Parameters {
        self.0.insert(name.into(), Numbers::I32(experts.into()));
        self
    }

    /// Adds token ids: one per token, for each rank of the communicator.
    #[must_use]
    pub fn token_ids(mut self, name: &str, of_ranks: &[Vec<i32>]) -> Parameters {
        self.0.insert(name.into(), Numbers::I32PerRank(of_ranks.into()));
        self
    }
}

/// The parameters of a gate on the device. Cloning shares the memory; what is written there later, the next call reads.
#[derive(Clone)]
pub struct GateParameters {
    device: Arc<dyn Device>,
    first: RankId,
    /// In the order of the kernel's arguments.
    parameters: Arc<[Placed]>,
}

struct Placed {
    parameter: Parameter,
    /// One for each rank.
    memory: Vec<Memory>,
}

/// A parameter that the caller has on the device: for each rank so many numbers, as if each were a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerParameter {
    /// Its name in the gate.
    pub name: String,
    /// One for each rank.
    pub parts: Vec<CallerPart>,
}

impl GateParameters {
    pub(super) fn addresses(&self, rank: RankId) -> impl Iterator<Item = Address> {
        let place = rank.0.checked_sub(self.first.0).map(|place| place as usize);
        let address = move |placed: &Placed| place.and_then(|place| placed.memory.get(place)).map(Memory::address);
        self.parameters.iter().map(move |placed| address(placed).unwrap_or(Address::NULL))
    }

    /// Whether the gate has none.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }
}

impl std::fmt::Debug for GateParameters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.parameters.iter().map(|placed| (&placed.parameter.name, &placed.memory));
        formatter.debug_map().entries(names).finish()
    }
}

impl Communicator {
    /// Copies the parameters of the gate to every rank. Waits for the device.
    ///
    /// # Errors
    /// When one is missing, unknown, or of another type or size than the gate's.
    pub fn upload_parameters(&mut self, parameters: &Parameters) -> Result<GateParameters> {
        let world = Arc::clone(&self.world);
        let gate = &world.manifest.gate;
        expect_known(gate, parameters.0.keys())?;
        let mut bytes: Vec<Vec<&[u8]>> = Vec::new();
        for parameter in &gate.parameters {
            let numbers = parameters.0.get(&parameter.name);
            let numbers = numbers.ok_or_else(|| Error::MissingParameter { name: parameter.name.clone() })?;
            let of_rank = |(place, rank)| numbers.bytes(parameter, rank, place, gate);
            bytes.push(self.ranks().enumerate().map(of_rank).collect::<Result<_>>()?);
        }
        if !bytes.is_empty() {
            self.synchronise()?;
        }
        let place = |(parameter, of_ranks): (&Parameter, Vec<&[u8]>)| {
            let of_rank = |(rank, bytes): (RankId, &[u8])| {
                let memory = self.memory(rank, bytes.len() as u64, &parameter.name)?;
                memory.write(bytes)?;
                Ok(memory)
            };
            let memory = self.ranks().zip(of_ranks).map(of_rank).collect::<Result<_>>()?;
            Ok(Placed { parameter: parameter.clone(), memory })
        };
        let placed: Vec<Placed> = gate.parameters.iter().zip(bytes).map(place).collect::<Result<_>>()?;
        Ok(self.parameters(placed))
    }

    /// Parameters of the gate that the caller has on every rank. Nothing is copied, and nothing is freed.
    ///
    /// # Errors
    /// As [`Communicator::upload_parameters`].
    ///
    /// # Safety
    /// As for [`Communicator::borrow`].
    pub unsafe fn borrow_parameters(&self, parameters: &[CallerParameter]) -> Result<GateParameters> {
        let gate = &self.world.manifest.gate;
        expect_known(gate, parameters.iter().map(|parameter| &parameter.name))?;
        let mut placed = Vec::new();
        for parameter in &gate.parameters {
            let found = parameters.iter().find(|found| found.name == parameter.name);
            let found = found.ok_or_else(|| Error::MissingParameter { name: parameter.name.clone() })?;
            self.expect_parts(&parameter.name, found.parts.len())?;
            let mut memory = Vec::new();
            for (rank, part) in self.ranks().zip(&found.parts) {
                let (expected, number) = size(parameter.kind, gate);
                let expected = expected.unwrap_or(part.rows);
                if (part.number, part.rows) != (number, expected) {
                    let text = |count, number: Number| format!("{count} × {} on {rank}", number.name());
                    return Err(Error::ParameterShape {
                        name: parameter.name.clone(),
                        found: text(part.rows, part.number),
                        expected: text(expected, number),
                    });
                }
                memory.push(Memory::of_another(&self.world.device, rank, part.address, 4 * part.rows));
            }
            placed.push(Placed { parameter: parameter.clone(), memory });
        }
        Ok(self.parameters(placed))
    }

    fn parameters(&self, placed: Vec<Placed>) -> GateParameters {
        let device = Arc::clone(&self.world.device);
        GateParameters { device, first: self.first(), parameters: placed.into() }
    }

    /// Refuses parameters of another device, other ranks, another gate or other tokens.
    pub(super) fn expect_parameters(&self, given: &GateParameters, tokens: &[u64]) -> Result<()> {
        let what = "gate parameters";
        if !Arc::ptr_eq(&given.device, &self.world.device) {
            return Err(Error::Foreign { what, why: "they are on another device" });
        }
        if given.first != self.first() || given.parameters.iter().any(|placed| placed.memory.len() != self.ranks.len())
        {
            return Err(Error::Foreign { what, why: "they are of other ranks" });
        }
        let gate = &self.world.manifest.gate;
        if !given.parameters.iter().map(|placed| &placed.parameter).eq(&gate.parameters) {
            return Err(Error::Foreign { what, why: "they are of another gate" });
        }
        let per_token = given.parameters.iter().filter(|placed| placed.parameter.kind == ParameterKind::TokenId);
        for placed in per_token {
            for ((rank, memory), &tokens) in self.ranks().zip(&placed.memory).zip(tokens) {
                if memory.bytes() != 4 * tokens {
                    return Err(Error::ParameterShape {
                        name: placed.parameter.name.clone(),
                        found: format!("{} × i32 on {rank}", memory.bytes() / 4),
                        expected: format!("{tokens} × i32 on {rank}, one for each token"),
                    });
                }
            }
        }
        Ok(())
    }
}

fn expect_known<'n>(gate: &GateDescription, mut names: impl Iterator<Item = &'n String>) -> Result<()> {
    match names.find(|name| gate.parameters.iter().all(|known| known.name != **name)) {
        None => Ok(()),
        Some(name) => {
            let known = gate.parameters.iter().map(|parameter| parameter.name.clone()).collect();
            Err(Error::UnknownParameter { name: name.clone(), known })
        }
    }
}

/// How many numbers of which type a parameter has; as many as there are tokens where none is given.
fn size(kind: ParameterKind, gate: &GateDescription) -> (Option<u64>, Number) {
    let f32 = Number::Element(Element::F32);
    match kind {
        ParameterKind::Scalar => (Some(1), f32),
        ParameterKind::Experts => (Some(gate.experts.into()), f32),
        ParameterKind::Groups => (Some(gate.groups.into()), f32),
        ParameterKind::Table { vocabulary, k } => (Some(u64::from(vocabulary) * u64::from(k)), Number::I32),
        ParameterKind::TokenId => (None, Number::I32),
    }
}

impl Numbers {
    /// What one rank gets of a parameter.
    fn bytes(&self, parameter: &Parameter, rank: RankId, place: usize, gate: &GateDescription) -> Result<&[u8]> {
        let f32 = Number::Element(Element::F32);
        let (expected, number) = size(parameter.kind, gate);
        let per_rank = expected.is_none();
        let (found, found_number, bytes): (String, Option<Number>, &[u8]) = match self {
            Numbers::F32(values) => (format!("{} × f32", values.len()), Some(f32), bytemuck::cast_slice(values)),
            Numbers::I32(values) => {
                (format!("{} × i32", values.len()), Some(Number::I32), bytemuck::cast_slice(values))
            }
            Numbers::I32PerRank(of_ranks) => match of_ranks.get(place) {
                Some(values) => {
                    let found = format!("{} × i32 on {rank}", values.len());
                    (found, Some(Number::I32), bytemuck::cast_slice(values))
                }
                None => (format!("nothing on {rank}"), None, &[]),
            },
        };
        let is_per_rank = matches!(self, Numbers::I32PerRank(_));
        let count = expected.unwrap_or(bytes.len() as u64 / 4);
        if found_number == Some(number) && is_per_rank == per_rank && bytes.len() as u64 == 4 * count {
            return Ok(bytes);
        }
        let expected = match expected {
            Some(count) => format!("{count} × {}", number.name()),
            None => format!("one {} for each token of {rank}", number.name()),
        };
        Err(Error::ParameterShape { name: parameter.name.clone(), found, expected })
    }
}
