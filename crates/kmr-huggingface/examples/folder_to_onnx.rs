//! Opens folders of `transformers` and writes each as ONNX: `folder_to_onnx FOLDER OUTPUT.onnx [FOLDER OUTPUT.onnx …]`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        let [folder, output] = pair else {
            return Err("give pairs of a folder and an output".into());
        };
        let opened = kmr_huggingface::open(Path::new(folder))?;
        let files = opened.model.files()?;
        kmr_platform::replace_file(Path::new(output), &mut |file| {
            files.write_model(&mut std::io::BufWriter::new(file))
        })?;
        println!(
            "{folder}: {} nodes, unused {:?}",
            opened.model.graph.nodes.len(),
            opened.unused
        );
    }
    Ok(())
}
