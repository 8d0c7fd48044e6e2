//! A plan as text.

use std::fmt;

use moe_contract::{Buffer, Format};

use crate::plan::Planned;

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exchange, layer) = (&self.exchange, &self.layer);
        let sizes = exchange.sizes();
        match &layer.deploy {
            Some(deploy) => writeln!(f, "plan of {deploy} of {}", layer.model)?,
            None => writeln!(f, "plan of the gate of {}", layer.model)?,
        }
        writeln!(f, "  ranks             {}", exchange.ranks)?;
        let local = exchange.local_experts_max();
        write!(f, "  experts           {}, at most {local} on a rank", exchange.experts)?;
        match exchange.zero_experts {
            0 => writeln!(f)?,
            zero => writeln!(f, "; {zero} more compute nothing")?,
        }
        writeln!(f, "  picks per token   {}", exchange.top_k)?;
        writeln!(f, "  tokens per rank   at most {}", exchange.max_tokens)?;
        writeln!(f, "  hidden            {}", exchange.hidden)?;
        writeln!(f, "  dispatch          {}, {}", name(exchange.dispatch), exchange.layout)?;
        let weighted = if exchange.weighted { "weighted" } else { "unweighted" };
        writeln!(f, "  combine           {}, {weighted}", name(exchange.combine))?;
        let (link, local) = (exchange.ctas_link, exchange.ctas_local);
        writeln!(
            f,
            "  launches          {link} CTAs send, up to {local} place and reduce, of {} threads",
            exchange.threads
        )?;
        writeln!(f, "symmetric memory, the same on every rank: {} bytes", exchange.symmetric_bytes())?;
        for place in exchange.symmetric_places().filter(|place| place.bytes > 0) {
            writeln!(f, "  {:<18} at {:>12}  {:>12} bytes", place.part.name(), place.start, place.bytes)?;
        }
        writeln!(f, "arrays of a handle, on every rank: {} bytes", sizes.handle)?;
        for buffer in Buffer::of_handle() {
            match exchange.buffer_bytes(buffer) {
                0 => {}
                bytes => writeln!(f, "  {:<18}    {:>12}  {bytes:>12} bytes", buffer.name(), "")?,
            }
        }
        writeln!(f, "in the worst case, on every rank")?;
        writeln!(f, "  experts' input    {} bytes in {} rows", sizes.expert_input, exchange.output_rows_max())?;
        writeln!(f, "  experts' output   {} bytes", sizes.expert_output)
    }
}

/// As in a `.moe` file; a plan has formats with a name alone.
fn name(format: Format) -> &'static str {
    format.name().unwrap_or_default()
}
