//! `kmr adapters`: takes low-rank adapters out of a model into a PEFT folder, or merges such a folder into a model.

use kmr_formats::{FormatError, read_peft, write_peft};
use kmr_model::{
    ModelError,
    adapters::{Adapter, adapters, merge},
};

use crate::{
    arguments::{Adapters, Common},
    exit,
    failure::Failure,
    files,
};

pub fn execute(arguments: &Adapters, common: &Common) -> Result<u8, Failure> {
    let model = files::read_model(&arguments.model)?;
    let refused = |error: ModelError| Failure::model(&arguments.model, &error);
    let done = match &arguments.merge {
        None => {
            let found = adapters(&model.graph).map_err(refused)?;
            write_peft(&arguments.out, &found, arguments.base.as_deref()).map_err(|error| unusable(&error))?;
            serde_json::json!({"schema": 1, "written": arguments.out, "layers": layers(&found)})
        }
        Some(folder) => {
            files::destination(&arguments.out)?;
            let found = read_peft(folder).map_err(|error| unusable(&error))?;
            let merged = model.with_graph(merge(&model.graph, &found).map_err(refused)?);
            files::write_model(&arguments.out, &merged.files().map_err(refused)?)?;
            serde_json::json!({"schema": 1, "written": arguments.out, "merged": layers(&found)})
        }
    };
    if common.json {
        crate::terminal::line!("{done:#}");
    }
    if !common.quiet {
        eprintln!("wrote {}", arguments.out.display());
    }
    Ok(exit::SUCCESS)
}

fn layers(found: &[Adapter]) -> Vec<serde_json::Value> {
    let told = |adapter: &Adapter| serde_json::json!({"layer": adapter.layer, "rank": adapter.rank, "scaling": adapter.scaling});
    found.iter().map(told).collect()
}

fn unusable(error: &FormatError) -> Failure {
    Failure::new(exit::INPUT, error.to_string()).help(error.way_out())
}
