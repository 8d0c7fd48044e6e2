//! A specification as text, for people: every default filled in, every unit in its base, the gate as Gate IR.

use std::fmt;

use moe_contract::Format;

use super::{CapacityLimit, Compression, Dense, DropRule, Heads, Index, Link, Model, Reach, Spec, Surroundings};

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, model) in self.models.iter() {
            write!(f, "{model}")?;
        }
        for (_, cluster) in self.clusters.iter() {
            writeln!(f, "cluster {}", cluster.name)?;
            writeln!(f, "  nodes           {}", cluster.nodes)?;
            writeln!(f, "  gpus per node   {}", cluster.gpus_per_node)?;
            let gpu = &cluster.gpu;
            writeln!(
                f,
                "  gpu             {} target {}, {} sms, {}",
                gpu.name.as_deref().unwrap_or("unnamed"),
                gpu.target.text(),
                gpu.sms,
                gpu.memory
            )?;
            writeln!(f, "  nvlink          {}", cluster.nvlink)?;
            if let Some(rdma) = cluster.rdma {
                writeln!(f, "  rdma            {rdma}")?;
            }
        }
        for (_, deploy) in self.deploys.iter() {
            let (model, cluster) = (&self.models[deploy.model].name, &self.clusters[deploy.cluster].name);
            writeln!(f, "deploy {} of {model} on {cluster}", deploy.name)?;
            writeln!(
                f,
                "  parallel        ep {}, pp {}, dp {}, tp {}, zero {}",
                deploy.ep, deploy.pp, deploy.dp, deploy.tp, deploy.zero
            )?;
            writeln!(f, "  tokens per gpu  {}", deploy.tokens.0)?;
            writeln!(f, "  mode            {}", deploy.mode.text())?;
            if let Some(sms) = deploy.sms {
                writeln!(f, "  sms             {sms}")?;
            }
            if let Some(sms) = deploy.sms_local {
                writeln!(f, "  sms_local       {sms}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model {}", self.name)?;
        writeln!(f, "  hidden          {}", self.hidden)?;
        write!(f, "  experts         {}", self.experts)?;
        if let Some(groups) = self.groups {
            write!(f, " in {groups} groups")?;
        }
        writeln!(f, ", {} per token", self.top_k())?;
        for range in &self.zero_experts {
            writeln!(f, "  zero experts    {}..{}", range.first, range.last)?;
        }
        writeln!(f, "  shared          {}", self.shared)?;
        writeln!(f, "  moe_layers      {}", self.moe_layers)?;
        if let Some(width) = self.expert_ffn {
            writeln!(f, "  expert_ffn      {width}{}", if self.gated { "" } else { ", ungated" })?;
        }
        if let Some(vocab) = self.vocab {
            writeln!(f, "  vocab           {vocab}")?;
        }
        if let Some(surroundings) = &self.surroundings {
            write!(f, "{surroundings}")?;
        }
        if let Some(capacity) = self.capacity {
            let drop = match capacity.drop {
                DropRule::Lowest => "lowest",
                DropRule::Position => "position",
            };
            match capacity.limit {
                CapacityLimit::Factor(factor) => writeln!(f, "  capacity        {factor} of the mean, drop {drop}")?,
                CapacityLimit::Tokens(tokens) => writeln!(f, "  capacity        {tokens}, drop {drop}")?,
            }
        }
        for line in self.gate.to_string().lines() {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "  dispatch        {}, {}", name(self.dispatch.payload), self.dispatch.layout)?;
        let weighted = if self.combine.weighted { "weighted" } else { "unweighted" };
        writeln!(f, "  combine         {}, {weighted}", name(self.combine.payload))
    }
}

impl fmt::Display for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attention.heads {
            Heads::Latent { heads, query_rank, key_value_rank, rope, nope, value } => {
                write!(f, "  attention       latent, {heads} heads")?;
                if let Some(rank) = query_rank {
                    write!(f, ", query rank {rank}")?;
                }
                write!(f, ", key and value rank {key_value_rank}, rope {rope}, nope {nope}, value {value}")?;
            }
            Heads::Grouped { heads, key_value_heads, head } => {
                write!(f, "  attention       grouped, {heads} heads of {head}, {key_value_heads} of keys and values")?;
            }
            Heads::Single { heads, query_rank, head, output_rank, output_groups } => {
                write!(f, "  attention       single, {heads} heads of {head}, one key that is the value")?;
                if let Some(rank) = query_rank {
                    write!(f, ", query rank {rank}")?;
                }
                if let Some(rank) = output_rank {
                    write!(f, ", output rank {rank} in each of {output_groups} groups")?;
                }
            }
        }
        for local in &self.attention.local {
            match local.reach {
                Reach::Window(tokens) => write!(f, ", window {tokens} in {} layers", local.layers)?,
                Reach::Chunk(tokens) => write!(f, ", chunk {tokens} in {} layers", local.layers)?,
                Reach::Compressed(compression) => write!(f, ", {compression} in {} layers", local.layers)?,
            }
        }
        writeln!(f)?;
        if self.encoder_layers > 0 {
            writeln!(f, "  encoder layers  {}", self.encoder_layers)?;
        }
        if self.streams > 1 {
            writeln!(f, "  streams         {}", self.streams)?;
        }
        if let Some(Dense { layers, ffn, beside_experts }) = self.dense {
            let beside = if beside_experts { ", and one beside the experts" } else { "" };
            writeln!(f, "  dense layers    {layers}, ffn {ffn}{beside}")?;
        }
        writeln!(f, "  embeddings      {}", if self.tied_embeddings { "tied" } else { "separate" })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one key per {} tokens", self.ratio)?;
        if self.pieces > 1 {
            write!(f, " of {} pieces", self.pieces)?;
        }
        if let Some(near) = self.near {
            write!(f, " beside the last {near}")?;
        }
        match self.index {
            Some(Index { heads, head, top }) => write!(f, ", the best {top} by {heads} heads of {head}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per gpu", self.bandwidth)?;
        match self.latency {
            Some(latency) => write!(f, ", latency {latency}"),
            None => Ok(()),
        }
    }
}

/// As written in a file, where each has a name.
fn name(format: Format) -> &'static str {
    format.name().unwrap_or_default()
}
