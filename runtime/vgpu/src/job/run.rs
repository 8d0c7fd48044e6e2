//! A job under its schedules.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::{Buffer, Content, Element, Expectation, Job, Number, Step, StubFunction, Tensor, Value};
use crate::module::Module;
use crate::{
    Address, Argument, Cluster, Config, Conflict, Judge, Kernel, Launch, OutOfBounds, Policy, Printed, RankId, Refused,
    Rule, Rules, RunError, StreamId, Stub, Swizzle, TensorElement, TensorMap, Waiver,
};

/// Reads a file that a job names.
pub type Load<'l> = &'l mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

/// How a job is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Seeds of each policy that draws.
    pub seeds: u64,
    /// With a judge of memory order.
    pub judge: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions { seeds: 8, judge: true }
    }
}

/// A job that cannot be run, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JobError(pub String);

/// Something that is wrong, under one schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub policy: Policy,
    pub seed: u64,
    pub text: String,
}

/// What came of a job.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Schedules that were run.
    pub schedules: u64,
    /// Of them, those under which something was wrong.
    pub failed: u64,
    /// Everything that is wrong, each thing once.
    pub found: Vec<Found>,
    /// Warnings and accepted findings.
    pub accepted: Vec<String>,
    /// What kernels printed under the first schedule.
    pub printed: Vec<Printed>,
    /// Kernels of the modules that cannot be run; the job does not launch them.
    pub refused: Vec<Refused>,
    /// The job says that it fails, and with what.
    pub fails: Option<String>,
    /// Warp instructions in all.
    pub instructions: u64,
}

impl Outcome {
    /// Whether what the job says is so.
    pub fn holds(&self) -> bool {
        match &self.fails {
            None => self.failed == 0,
            Some(text) => {
                self.failed == self.schedules && self.found.iter().any(|found| found.text.contains(text.as_str()))
            }
        }
    }
}

fn fail<T>(text: impl Into<String>) -> Result<T, JobError> {
    Err(JobError(text.into()))
}

/// A job whose files have been read.
struct Ready<'j> {
    job: &'j Job,
    modules: Vec<Module>,
    refused: Vec<Refused>,
    rules: Rules,
    /// Bytes of files, by name.
    files: HashMap<&'j str, Vec<u8>>,
}

/// A year.
const MOST_SECONDS: u64 = 366 * 24 * 3600;

/// Where the buffers of one run are.
type Places = BTreeMap<String, (Address, u64)>;

impl Job {
    /// Runs it under its policies, with `seeds` seeds of each that draws; `step` hears of each schedule before it.
    ///
    /// # Errors
    /// When the job cannot be run.
    pub fn run(
        &self,
        options: RunOptions,
        load: Load<'_>,
        mut step: impl FnMut(u64, u64),
    ) -> Result<Outcome, JobError> {
        let deadline = Instant::now() + Duration::from_secs(self.limits.seconds.min(MOST_SECONDS));
        let ready = self.prepare(load)?;
        let mut outcome = Outcome { refused: ready.refused.clone(), fails: self.fails.clone(), ..Outcome::default() };
        let seeds = |policy| if policy == Policy::RoundRobin { 1 } else { options.seeds };
        let schedules: Vec<(Policy, u64)> =
            self.policies.iter().flat_map(|&policy| (0..seeds(policy)).map(move |seed| (policy, seed))).collect();
        for (at, &(policy, seed)) in (0..).zip(&schedules) {
            let over = || {
                format!(
                    "{at} of {} schedules have taken the {} seconds that `limits.seconds` allows: allow more, or run fewer with `--seeds`",
                    schedules.len(),
                    self.limits.seconds
                )
            };
            if Instant::now() > deadline {
                return fail(over());
            }
            step(at, schedules.len() as u64);
            let Some(texts) = ready.once(policy, seed, options.judge, deadline, &mut outcome)? else {
                return fail(over());
            };
            outcome.schedules += 1;
            outcome.failed += u64::from(!texts.is_empty());
            for text in texts {
                let known = outcome.found.iter().any(|other| what(&other.text) == what(&text));
                if !known {
                    outcome.found.push(Found { policy, seed, text });
                }
            }
        }
        Ok(outcome)
    }

    fn prepare<'j>(&'j self, load: Load<'_>) -> Result<Ready<'j>, JobError> {
        if self.policies.is_empty() {
            return fail("`policies` names no policy");
        }
        if self.modules.is_empty() {
            return fail("`modules` names no file of PTX");
        }
        let mut ready =
            Ready { job: self, modules: Vec::new(), refused: Vec::new(), rules: self.rules()?, files: HashMap::new() };
        let stub = |stub: &StubFunction| Stub { name: stub.name.clone(), returns: stub.returns.cast_unsigned() };
        let stubs: Vec<Stub> = self.stubs.iter().map(stub).collect();
        for name in &self.modules {
            let bytes = load(name).map_err(JobError)?;
            let Ok(text) = String::from_utf8(bytes) else { return fail(format!("{name} is no text")) };
            let (module, refused) =
                Module::parse_with(&text, &stubs).map_err(|error| JobError(format!("{name}: {error}")))?;
            ready.modules.push(module);
            ready.refused.extend(refused);
        }
        let files = self.buffers.iter().filter_map(|buffer| buffer.file.as_deref());
        for file in files.chain(self.expectations.iter().filter_map(|expectation| expectation.file.as_deref())) {
            if !ready.files.contains_key(file) {
                ready.files.insert(file, load(file).map_err(JobError)?);
            }
        }
        let mut total = 0u64;
        for buffer in &self.buffers {
            let bytes = ready.count(buffer)?.checked_mul(buffer.element.bytes());
            total = bytes.map_or(u64::MAX, |bytes| total.saturating_add(bytes));
        }
        if total > self.limits.bytes {
            return fail(format!("the buffers have {total} bytes, and `limits.bytes` allows {}", self.limits.bytes));
        }
        Ok(ready)
    }

    fn rules(&self) -> Result<Rules, JobError> {
        let named = |name: &String| {
            let all = Rule::ALL.map(Rule::name).join(", ");
            Rule::ALL
                .into_iter()
                .find(|rule| rule.name() == name)
                .ok_or(JobError(format!("`{name}` is no rule: there are {all}")))
        };
        let mut rules = Rules::default();
        for (name, severity) in &self.severities {
            rules = rules.with(named(name)?, *severity);
        }
        for accepted in &self.accepted {
            rules = rules.waive(Waiver {
                rules: accepted.rules.iter().map(&named).collect::<Result<_, _>>()?,
                kernel: accepted.kernel.clone(),
                lines: accepted.lines.map(|[first, last]| first..=last),
                symbol: accepted.symbol.clone(),
                reason: accepted.reason.clone(),
            });
        }
        Ok(rules)
    }
}

/// A report without what differs from schedule to schedule: numbers, but for those of lines in a text.
fn what(text: &str) -> String {
    let of_schedule = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("thread:") || line.starts_with("schedule:") || line.ends_with(" times")
    };
    let mut known = String::new();
    for line in text.lines().filter(|line| !of_schedule(line)) {
        for (number, part) in line.split("line ").enumerate() {
            let digits = if number == 0 { 0 } else { part.chars().take_while(char::is_ascii_digit).count() };
            let (place, rest) = part.split_at(digits);
            known.push_str(place);
            known.extend(rest.chars().filter(|c| !c.is_ascii_digit() && *c != '+'));
        }
    }
    known
}

impl Ready<'_> {
    fn count(&self, buffer: &Buffer) -> Result<u64, JobError> {
        let name = &buffer.name;
        let Content { fill, values, steps, file } = &buffer.content();
        let given = [fill.is_some(), values.is_some(), steps.is_some(), file.is_some()]
            .into_iter()
            .filter(|given| *given)
            .count();
        if given > 1 {
            return fail(format!("buffer `{name}`: give one of `fill`, `values`, `steps` and `file`"));
        }
        let of_content = match (values, file) {
            (Some(values), _) => Some(values.len() as u64),
            (_, Some(file)) => Some(self.files.get(file.as_str()).map_or(0, Vec::len) as u64 / buffer.element.bytes()),
            (None, None) => None,
        };
        match (buffer.count, of_content) {
            (Some(count), Some(of_content)) if of_content > count => {
                fail(format!("buffer `{name}` has {count} elements, and there are {of_content} for it"))
            }
            (Some(count), _) => Ok(count),
            (None, None) if buffer.tensor.is_some() => Ok(1),
            (None, Some(count)) => Ok(count),
            (None, None) => fail(format!("buffer `{name}` has no `count`")),
        }
    }

    /// The bytes of a content, so many elements of it where it does not say how many it has.
    fn bytes(
        &self,
        content: &Content,
        element: Element,
        count: u64,
        places: &Places,
        of: &str,
    ) -> Result<Option<Vec<u8>>, JobError> {
        let encode = |value: &Value| {
            let bytes = encoded(value, element, places).map_err(|error| JobError(format!("{of}: {error}")))?;
            match bytes.len() as u64 == element.bytes() {
                true => Ok(bytes),
                false => fail(format!("{of}: a value has {} bytes, an element {}", bytes.len(), element.bytes())),
            }
        };
        let Content { fill, values, steps, file } = content;
        if let Some(fill) = fill {
            return Ok(Some(encode(fill)?.repeat(count as usize)));
        }
        if let Some(values) = values {
            return Ok(Some(values.iter().map(encode).collect::<Result<Vec<_>, _>>()?.concat()));
        }
        if let Some([first, step]) = steps {
            let number = |at: u64| match (first, step) {
                (Number::Integer(first), Number::Integer(step)) => {
                    Value::Number(Number::Integer(first.wrapping_add(step.wrapping_mul(at.cast_signed()))))
                }
                (first, step) => Value::Number(Number::Float(float(*first) + float(*step) * at as f64)),
            };
            let bytes = (0..count).map(|at| encode(&number(at))).collect::<Result<Vec<_>, _>>()?;
            return Ok(Some(bytes.concat()));
        }
        Ok(file.as_ref().and_then(|file| self.files.get(file.as_str()).cloned()))
    }

    /// What is wrong under one schedule; none if it has not ended in time.
    fn once(
        &self,
        policy: Policy,
        seed: u64,
        judged: bool,
        deadline: Instant,
        outcome: &mut Outcome,
    ) -> Result<Option<Vec<String>>, JobError> {
        let job = self.job;
        let said = |error: crate::ClusterError| JobError(error.to_string());
        let config = Config {
            ranks: job.ranks,
            sms: job.sms,
            seed,
            policy,
            check_initialised: true,
            rules: self.rules.clone(),
            instruction_limit: job.limits.instructions,
        };
        let mut cluster = Cluster::new(config).map_err(said)?;
        cluster.stop_at(deadline);
        let judge = Judge::new(self.rules.clone());
        if judged {
            cluster.observe(Box::new(judge.clone()));
        }
        let mut places = Places::new();
        for buffer in &job.buffers {
            let bytes = self.count(buffer)? * buffer.element.bytes();
            let at = cluster.allocate(RankId(buffer.rank), bytes, &buffer.name).map_err(said)?;
            if places.insert(buffer.name.clone(), (at, bytes)).is_some() {
                return fail(format!("there are two buffers with the name `{}`", buffer.name));
            }
        }
        for multicast in &job.multicast {
            let of = |text: String| JobError(format!("multicast `{}`: {text}", multicast.name));
            let found = multicast
                .of
                .iter()
                .map(|name| places.get(name).copied().ok_or_else(|| of(format!("there is no buffer `{name}`"))));
            let parts = found.collect::<Result<Vec<(Address, u64)>, _>>()?;
            let bytes = parts.iter().map(|(_, bytes)| *bytes).min().unwrap_or(0);
            let addresses: Vec<Address> = parts.iter().map(|(at, _)| *at).collect();
            let at = cluster.multicast(&addresses, bytes, &multicast.name).map_err(said)?;
            if places.insert(multicast.name.clone(), (at, bytes)).is_some() {
                return fail(format!("there are two buffers with the name `{}`", multicast.name));
            }
        }
        for buffer in &job.buffers {
            let of = format!("buffer `{}`", buffer.name);
            if (buffer.element == Element::TensorMap) != buffer.tensor.is_some() {
                return fail(format!("{of}: a `tensor` belongs to type `tensormap`, and that needs one"));
            }
            if let (Some(tensor), Some((at, _))) = (&buffer.tensor, places.get(&buffer.name)) {
                let map = tensor_map(tensor, &places).map_err(|text| JobError(format!("{of}: {text}")))?;
                cluster.write(*at, &map).map_err(said)?;
            }
            let content = self.bytes(&buffer.content(), buffer.element, self.count(buffer)?, &places, &of)?;
            if let (Some(content), Some((at, _))) = (content, places.get(&buffer.name)) {
                cluster.write(*at, &content).map_err(said)?;
            }
        }
        let mut streams: HashMap<(u32, u32), StreamId> = HashMap::new();
        let mut error = None;
        for (number, step) in (1..).zip(&job.steps) {
            let in_step = |error: JobError| JobError(format!("step {number}: {error}"));
            if self.step(&mut cluster, step, &places, &mut streams).map_err(in_step)? {
                error = cluster.run().err();
                if error.is_some() {
                    break;
                }
            }
        }
        error = error.or_else(|| cluster.run().err());
        if matches!(error, Some(RunError::Time(_))) {
            return Ok(None);
        }
        let mut wrong: Vec<String> = error.iter().map(ToString::to_string).collect();
        if judged {
            let (found, accepted): (Vec<_>, Vec<_>) = judge.found().into_iter().partition(Conflict::is_error);
            wrong.extend(found.iter().map(ToString::to_string));
            note(&mut outcome.accepted, accepted.iter().map(ToString::to_string));
        }
        note(&mut outcome.accepted, cluster.findings().iter().map(ToString::to_string));
        if error.is_none() {
            for expectation in &job.expectations {
                wrong.extend(self.differs(&mut cluster, expectation, &places)?);
            }
        }
        if outcome.schedules == 0 {
            outcome.printed = cluster.printed().to_vec();
        }
        outcome.instructions += cluster.instructions();
        Ok(Some(wrong))
    }

    /// Whether everything is to be waited for.
    fn step(
        &self,
        cluster: &mut Cluster,
        step: &Step,
        places: &Places,
        streams: &mut HashMap<(u32, u32), StreamId>,
    ) -> Result<bool, JobError> {
        let said = |error: crate::ClusterError| JobError(error.to_string());
        match (&step.launch, &step.write, step.wait) {
            (Some(name), None, false) => {
                let kernel = self.kernel(name)?;
                let stream = match streams.get(&(step.rank, step.stream)) {
                    Some(stream) => *stream,
                    None => {
                        let made = cluster.stream(RankId(step.rank)).map_err(said)?;
                        streams.insert((step.rank, step.stream), made);
                        made
                    }
                };
                let launch = Launch {
                    grid: extents(&step.grid, "grid")?,
                    block: extents(&step.block, "block")?,
                    shared: step.shared,
                    cluster: step.cluster.as_deref().map(|given| extents(given, "cluster")).transpose()?,
                    arguments: self.arguments(cluster, &kernel, &step.args, places)?,
                };
                let launched = match (step.cooperative, step.dependent) {
                    (true, true) => return fail("a launch is cooperative or dependent"),
                    (true, false) => cluster.launch_cooperative(stream, &kernel, launch),
                    (false, true) => cluster.launch_dependent(stream, &kernel, launch),
                    (false, false) => cluster.launch(stream, &kernel, launch),
                };
                launched.map_err(said)?;
                Ok(false)
            }
            (None, Some(name), false) => {
                let content = Content { values: step.values.clone(), ..Content::default() };
                let found = self.found(cluster, name, step.rank, step.element, places)?;
                let bytes = self.bytes(&content, found.element, 0, places, &format!("`{name}`"))?;
                if let Some(bytes) = bytes {
                    cluster.write(found.at, &bytes).map_err(said)?;
                }
                Ok(false)
            }
            (None, None, true) => Ok(true),
            _ => fail("a step has one of `launch`, `write` and `wait = true`"),
        }
    }

    /// The arguments of a launch. A number has the size of its parameter, and a tensor map goes by value where the parameter has its size.
    fn arguments(
        &self,
        cluster: &mut Cluster,
        kernel: &Kernel,
        given: &[Value],
        places: &Places,
    ) -> Result<Vec<Argument>, JobError> {
        let parameters = kernel.parameters();
        if parameters.len() != given.len() {
            let name = crate::demangled(kernel.name());
            return fail(format!("kernel `{name}` takes {} arguments, here are {}", parameters.len(), given.len()));
        }
        let each = parameters.iter().zip(given).enumerate();
        each.map(|(at, (parameter, value))| {
            if let (Value::Place(name), Element::TensorMap) = (value, self.element_of(value))
                && u64::from(parameter.bytes) == Element::TensorMap.bytes()
                && let Some((at, _)) = places.get(name)
            {
                let mut map = vec![0; parameter.bytes as usize];
                cluster.read(*at, &mut map).map_err(|error| JobError(error.to_string()))?;
                return Ok(Argument::Bytes(map));
            }
            let element = match (value, parameter.bytes) {
                (Value::Number(Number::Float(_)), 8) => Element::F64,
                (Value::Number(Number::Float(_)), _) => Element::F32,
                (Value::Number(Number::Integer(value)), 1) => {
                    if *value < 0 {
                        Element::I8
                    } else {
                        Element::U8
                    }
                }
                (Value::Number(Number::Integer(value)), 2) => {
                    if *value < 0 {
                        Element::I16
                    } else {
                        Element::U16
                    }
                }
                (Value::Number(Number::Integer(value)), 4) => {
                    if *value < 0 {
                        Element::I32
                    } else {
                        Element::U32
                    }
                }
                (_, _) => Element::I64,
            };
            let mut bytes =
                encoded(value, element, places).map_err(|error| JobError(format!("argument {}: {error}", at + 1)))?;
            if matches!(value, Value::Struct(_)) && bytes.len() < parameter.bytes as usize {
                // What is behind the last field.
                bytes.resize(parameter.bytes as usize, 0);
            }
            Ok(Argument::Bytes(bytes))
        })
        .collect()
    }

    /// The type of what a value names, if it is a whole buffer.
    fn element_of(&self, value: &Value) -> Element {
        let named = |buffer: &&Buffer| matches!(value, Value::Place(name) if *name == buffer.name);
        self.job.buffers.iter().find(named).map_or(Element::Pointer, |buffer| buffer.element)
    }

    fn kernel(&self, name: &str) -> Result<Kernel, JobError> {
        if let Some(kernel) = self.modules.iter().find_map(|module| module.kernel(name)) {
            return Ok(kernel);
        }
        let called = |refused: &&Refused| refused.kernel == name || crate::demangled(&refused.kernel) == name;
        if let Some(refused) = self.refused.iter().find(called) {
            return fail(format!("kernel `{name}` cannot be run: {}", refused.error));
        }
        let known: Vec<String> = self.modules.iter().flat_map(Module::kernels).map(crate::demangled).collect();
        fail(format!("there is no kernel `{name}`: the modules have {}", known.join(", ")))
    }

    /// A buffer, or a variable of a module.
    fn found(
        &self,
        cluster: &mut Cluster,
        name: &str,
        rank: u32,
        element: Option<Element>,
        places: &Places,
    ) -> Result<Named, JobError> {
        let buffer = self.job.buffers.iter().find(|buffer| buffer.name == name);
        if let (Some(buffer), Some((at, _))) = (buffer, places.get(name)) {
            return Ok(Named { at: *at, element: buffer.element, count: self.count(buffer)? });
        }
        for module in &self.modules {
            let Some(bytes) = module.variable_bytes(name) else { continue };
            cluster.load(RankId(rank), module).map_err(|error| JobError(error.to_string()))?;
            let Some(at) = cluster.variable(RankId(rank), module, name) else { continue };
            let Some(element) = element else {
                return fail(format!("`{name}` is a variable: give the `type` of its elements"));
            };
            return Ok(Named { at, element, count: bytes / element.bytes() });
        }
        fail(format!("there is no buffer `{name}`, and no variable of a module"))
    }

    /// The first element that is not what is expected.
    fn differs(
        &self,
        cluster: &mut Cluster,
        expectation: &Expectation,
        places: &Places,
    ) -> Result<Option<String>, JobError> {
        let name = &expectation.buffer;
        let in_expect = |error: JobError| JobError(format!("expect: {error}"));
        let found = self.found(cluster, name, expectation.rank, expectation.element, places).map_err(in_expect)?;
        let (element, of) = (found.element, format!("expect `{name}`"));
        let count = found.count.saturating_sub(expectation.from);
        let Some(expected) = self.bytes(&expectation.content(), element, count, places, &of)? else {
            return fail(format!("{of}: give one of `fill`, `values`, `steps` and `file`"));
        };
        let start = found.at.offset(expectation.from * element.bytes());
        let mut found = vec![0; expected.len()];
        if let Err(error) = cluster.read(start, &mut found) {
            return Ok(Some(error.to_string()));
        }
        let width = element.bytes() as usize;
        for (index, (found, expected)) in (expectation.from..).zip(found.chunks(width).zip(expected.chunks(width))) {
            let near = match (element.decode(found), element.decode(expected)) {
                (Some(a), Some(b)) => (a - b).abs() <= expectation.tolerance,
                _ => false,
            };
            if found != expected && !near {
                let (found, expected) = (element.told(found), element.told(expected));
                return Ok(Some(format!("`{name}` holds {found} in element {index}, and {expected} is expected")));
            }
        }
        Ok(None)
    }
}

/// Memory that a job names.
struct Named {
    at: Address,
    element: Element,
    count: u64,
}

fn note(known: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for text in more {
        if !known.iter().any(|other| what(other) == what(&text)) {
            known.push(text);
        }
    }
}

fn float(number: Number) -> f64 {
    match number {
        Number::Integer(value) => value as f64,
        Number::Float(value) => value,
    }
}

fn extents(given: &[u32], what: &str) -> Result<[u32; 3], JobError> {
    let mut extents = [1; 3];
    if given.is_empty() || given.len() > 3 {
        return fail(format!("`{what}` has from 1 to 3 numbers"));
    }
    extents[..given.len()].copy_from_slice(given);
    Ok(extents)
}

/// The bytes of a tensor map.
fn tensor_map(tensor: &Tensor, places: &Places) -> Result<Vec<u8>, String> {
    let element = match tensor.element {
        Element::U8 => TensorElement::U8,
        Element::U16 => TensorElement::U16,
        Element::U32 => TensorElement::U32,
        Element::I32 => TensorElement::S32,
        Element::U64 => TensorElement::U64,
        Element::I64 => TensorElement::S64,
        Element::F16 => TensorElement::F16,
        Element::Bf16 => TensorElement::Bf16,
        Element::F32 => TensorElement::F32,
        Element::F64 => TensorElement::F64,
        Element::I8 | Element::I16 | Element::Pointer | Element::TensorMap => {
            return Err("a tensor has no elements of this type".into());
        }
    };
    let swizzle = match tensor.swizzle {
        None | Some(0) => Swizzle::None,
        Some(32) => Swizzle::Bytes32,
        Some(64) => Swizzle::Bytes64,
        Some(128) => Swizzle::Bytes128,
        Some(other) => return Err(format!("`swizzle` is 0, 32, 64 or 128, not {other}")),
    };
    let dense = tensor.dims.iter().scan(tensor.element.bytes(), |bytes, dim| {
        *bytes = bytes.saturating_mul(*dim);
        Some(*bytes)
    });
    let dense = || dense.clone().take(tensor.dims.len().saturating_sub(1)).collect();
    let map = TensorMap {
        element,
        address: place(&tensor.of, places)?,
        dims: tensor.dims.clone(),
        strides: tensor.strides.clone().unwrap_or_else(dense),
        tile: tensor.tile.clone(),
        element_strides: tensor.element_strides.clone().unwrap_or_else(|| vec![1; tensor.dims.len()]),
        swizzle,
        out_of_bounds: if tensor.nan { OutOfBounds::Nan } else { OutOfBounds::Zero },
    };
    map.encode().map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
}

/// A place in a buffer: its name, and bytes behind a `+`.
fn place(text: &str, places: &Places) -> Result<Address, String> {
    let (name, offset) = text.rsplit_once('+').unwrap_or((text, "0"));
    let at = places.get(name).and_then(|(at, _)| Some(at.offset(offset.trim().parse().ok()?)));
    at.ok_or_else(|| format!("`{text}` is no place in a buffer"))
}

fn encoded(value: &Value, element: Element, places: &Places) -> Result<Vec<u8>, String> {
    match value {
        Value::Number(number) => element.encode(*number),
        Value::Typed { element, value } => encoded(value, *element, places),
        Value::Place(text) => Ok(place(text, places)?.0.to_le_bytes().to_vec()),
        Value::Struct(fields) => {
            let mut bytes: Vec<u8> = Vec::new();
            for field in fields {
                let field = encoded(field, Element::I32, places)?;
                bytes.resize(bytes.len().next_multiple_of(field.len().clamp(1, 16).next_power_of_two()), 0);
                bytes.extend(field);
            }
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::what;

    #[test]
    fn what_is_found_at_two_lines_is_two_things_and_under_two_schedules_one() {
        let told = |lane: u32, line: u32, seed: u32| {
            format!(
                "`x+{lane}` is bad\n  by: rank 0, kernel `k`, CTA {lane}, line {line} (a.cu:3): st\n  schedule: random, seed {seed}"
            )
        };
        assert_eq!(what(&told(1, 7, 1)), what(&told(2, 7, 5)));
        assert_ne!(what(&told(1, 7, 1)), what(&told(1, 9, 1)));
    }
}
