//! What one multiprocessor of a GPU can do at most: stores and loads, plain and in bulk, launches, and a word from one CTA to another. Every
//! result is compared before it is timed. `make gpu` runs it.

mod kernels;
mod measure;

use std::process::ExitCode;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use measure::{Outcome, Sizes, measure};
use moe_runtime::{CudaDevice, CudaOptions, Device};

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Outcome<()> {
    let device = CudaDevice::new(1, &CudaOptions::default())?;
    println!("{}", device.description());
    let lines = measure(&device, &Sizes::of_gpu(), |what| eprintln!("measuring: {what}"))?;
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(["what", "CTAs", "measured", "predicted for an H100"]);
    for line in lines {
        let measured = format!("{:.2} {}", line.measured, line.unit);
        table.add_row([line.what, line.ctas.to_string(), measured, line.predicted.into()]);
    }
    println!("{table}");
    Ok(())
}
