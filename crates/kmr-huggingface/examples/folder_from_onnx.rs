//! Writes what became of a folder's model as a folder again: `folder_from_onnx SOURCE_FOLDER MODEL.onnx TARGET_FOLDER`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, model, target] = &arguments[..] else {
        return Err("give the folder that the model came from, the model, and the folder to write".into());
    };
    let model = kmr_model::Model::decode(kmr_platform::map_file(Path::new(model))?)?;
    let written = kmr_huggingface::write_back(&model, Path::new(source), Path::new(target))?;
    for line in written.changes.iter().chain(&written.warnings) {
        println!("{line}");
    }
    Ok(())
}
