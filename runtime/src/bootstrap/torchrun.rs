//! What torchrun tells each process it starts, in the environment; other launchers set the same variables.

use std::time::Duration;

use super::{BootstrapError, TcpBootstrap};

/// Which process this is, of how many, and where they meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torchrun {
    /// `RANK`: which process of all.
    pub rank: u32,
    /// `WORLD_SIZE`: how many there are.
    pub world_size: u32,
    /// `LOCAL_RANK`: which process of this machine.
    pub local_rank: u32,
    /// `LOCAL_WORLD_SIZE`: how many there are on this machine; all, where it is not said.
    pub local_world_size: u32,
    /// `MASTER_ADDR`: the machine of process 0.
    pub master_addr: String,
    /// `MASTER_PORT`: a port there, which torchrun itself listens at.
    pub master_port: u16,
    /// `MOE_PORT`: a port there for this runtime; the one after `MASTER_PORT`, where it is not said.
    pub port: u16,
}

impl Torchrun {
    /// What this process was told.
    ///
    /// # Errors
    /// Which variable is missing or wrong.
    pub fn from_environment() -> Result<Torchrun, BootstrapError> {
        Torchrun::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Torchrun, BootstrapError> {
        let wrong = |name: &str, problem: String| BootstrapError::Variable { name: name.into(), problem };
        let text = |name: &str| variable(name).ok_or_else(|| wrong(name, "is missing".into()));
        let parse = |name: &str, text: String| {
            text.trim().parse::<u32>().map_err(|_| wrong(name, format!("is `{text}`, which is not a number")))
        };
        let number = |name: &str| parse(name, text(name)?);
        let optional = |name: &str| variable(name).map(|text| parse(name, text)).transpose();
        let port = |name: &str, number: u32| {
            let port = u16::try_from(number).ok().filter(|&port| port > 0);
            port.ok_or_else(|| wrong(name, format!("is {number}, which is no port")))
        };
        let (rank, world_size, local_rank) = (number("RANK")?, number("WORLD_SIZE")?, number("LOCAL_RANK")?);
        let local_world_size = optional("LOCAL_WORLD_SIZE")?.unwrap_or(world_size);
        for (name, number, of, count) in
            [("RANK", rank, "WORLD_SIZE", world_size), ("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_world_size)]
        {
            if number >= count {
                return Err(wrong(name, format!("is {number}, and {of} is {count}")));
            }
        }
        let master_port = port("MASTER_PORT", number("MASTER_PORT")?)?;
        let own = match optional("MOE_PORT")? {
            Some(number) => port("MOE_PORT", number)?,
            None => port("MASTER_PORT", u32::from(master_port) + 1)?,
        };
        let master_addr = text("MASTER_ADDR")?;
        Ok(Torchrun { rank, world_size, local_rank, local_world_size, master_addr, master_port, port: own })
    }

    /// Meets the other processes.
    ///
    /// # Errors
    /// Who did not come.
    pub fn meet(&self, patience: Duration) -> Result<TcpBootstrap, BootstrapError> {
        let host = match self.master_addr.contains(':') {
            true => format!("[{}]", self.master_addr),
            false => self.master_addr.clone(),
        };
        TcpBootstrap::meet(&format!("{host}:{}", self.port), self.rank, self.world_size, patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(changes: &[(&str, Option<&str>)]) -> Result<Torchrun, String> {
        let told = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node7"),
            ("MASTER_PORT", "29500"),
        ];
        let changed = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
        let variable = |name: &str| match changed(name) {
            Some(value) => value,
            None => told.iter().find(|(known, _)| *known == name).map(|(_, value)| *value),
        };
        Torchrun::from(|name| variable(name).map(str::to_owned)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variables_of_torchrun_are_read_and_a_wrong_one_is_named() {
        let told = of(&[]).expect("sound");
        assert_eq!((told.rank, told.world_size, told.local_rank, told.local_world_size), (3, 4, 1, 2));
        assert_eq!((told.master_addr.as_str(), told.master_port, told.port), ("node7", 29500, 29501));
        assert_eq!(
            of(&[("MOE_PORT", Some("4000")), ("LOCAL_WORLD_SIZE", None)]).map(|t| (t.port, t.local_world_size)),
            Ok((4000, 4))
        );
        for (changes, expected) in [
            (("RANK", None), "RANK in the environment is missing; torchrun sets it, or set it yourself"),
            (
                ("RANK", Some("4")),
                "RANK in the environment is 4, and WORLD_SIZE is 4; torchrun sets it, or set it yourself",
            ),
            (
                ("MASTER_PORT", Some("http")),
                "MASTER_PORT in the environment is `http`, which is not a number; torchrun sets it, or set it yourself",
            ),
            (
                ("MASTER_PORT", Some("65535")),
                "MASTER_PORT in the environment is 65536, which is no port; torchrun sets it, or set it yourself",
            ),
        ] {
            assert_eq!(of(&[changes]), Err(expected.into()));
        }
    }
}
