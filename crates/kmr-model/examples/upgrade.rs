//! Upgrades a model: `upgrade IN OUT OPSET`. For `tests/upgrade_answers.py`.

use std::{env, error::Error, fs};

use bytes::Bytes;
use kmr_model::{Model, upgrade::upgrade};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, from, to, opset] = arguments.as_slice() else {
        return Err("usage: upgrade IN OUT OPSET".into());
    };
    let model = Model::decode(Bytes::from(fs::read(from)?))?;
    let (upgraded, changes) = upgrade(&model, opset.parse()?)?;
    changes.iter().for_each(|change| println!("{change}"));
    fs::write(to, upgraded.encode_to_vec())?;
    Ok(())
}
