//! Texts as rows: cut, padded and judged.

use kmr_formats::{Dataset, ErrorKind, FormatError, NamedArrays, SampleDigest};
use kmr_model::Tensor;
use sha2::{Digest, Sha256};

use crate::columns::Judged;
use crate::table::Source;
use crate::{Encoded, Format, Limits, Texts, Tokenizer};

pub(crate) fn read(
    source: &Source<'_>,
    texts: &Texts,
    tokenizer: &Tokenizer,
    limits: Limits,
) -> Result<Dataset, FormatError> {
    let tokenizer = match texts.max_length {
        Some(length) => &tokenizer.clone().cut(length, texts.pair.is_some())?,
        None => tokenizer,
    };
    let mut samples: Vec<(usize, Vec<Encoded>)> = Vec::new();
    let mut judged = None;
    match &texts.text {
        None => {
            let named = [&texts.pair, &texts.against, &texts.label].into_iter().flatten().next();
            if let Some(named) = named {
                // There are no columns, or none is named for the texts.
                source.columns(&[named.as_str()])?;
                return Err(source
                    .error(
                        ErrorKind::Shape,
                        format!("column `{named}` is named, the column of texts is not"),
                    )
                    .help("write `text`, the name of the column of texts"));
            }
            if source.format != Format::Lines {
                return Err(source.unnamed());
            }
            for (line, text) in source.lines()? {
                samples.push((line, vec![tokenizer.encode(text, None)?]));
            }
        }
        Some(text) => {
            let names = [
                Some(text),
                texts.pair.as_ref(),
                texts.against.as_ref(),
                texts.label.as_ref(),
            ];
            let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
            let columns = source.columns(&names)?;
            let column = |name: &Option<String>| {
                let name = name.as_ref()?;
                columns.iter().find(|column| column.name == *name)
            };
            let texts_of = |name: &Option<String>| column(name).map(|column| column.texts(source.path)).transpose();
            let first = texts_of(&texts.text)?.unwrap_or_default();
            let (pair, against) = (texts_of(&texts.pair)?, texts_of(&texts.against)?);
            for (at, (line, text)) in first.iter().enumerate() {
                let pair = pair.as_ref().map(|pair| pair[at].1);
                let mut rows = vec![tokenizer.encode(text, pair)?];
                if let Some(against) = &against {
                    rows.push(tokenizer.encode(against[at].1, pair)?);
                }
                samples.push((*line, rows));
            }
            judged = column(&texts.label)
                .map(|column| column.judged(source.path))
                .transpose()?;
        }
    }
    let padded = padded(source, texts, tokenizer, limits, &samples)?;
    let identities = samples.iter().map(|(_, rows)| identity(rows)).collect();
    let (labels, scores) = match judged {
        Some(Judged::Classes(classes)) => (Some(Tensor::from_vec(vec![classes.len()], classes)), None),
        Some(Judged::Scores(scores)) => (None, Some(Tensor::from_vec(vec![scores.len()], scores))),
        None => (None, None),
    };
    let dataset = Dataset::new(source.path, padded, labels, None)?.with_identities(identities)?;
    match scores {
        Some(scores) => dataset.with_targets(scores),
        None => Ok(dataset),
    }
}

/// The arrays of all samples: of shape samples × tokens, or samples × 2 × tokens where texts are compared.
fn padded(
    source: &Source<'_>,
    texts: &Texts,
    tokenizer: &Tokenizer,
    limits: Limits,
    samples: &[(usize, Vec<Encoded>)],
) -> Result<NamedArrays, FormatError> {
    let lengths = samples
        .iter()
        .flat_map(|(line, rows)| rows.iter().map(move |row| (row.ids.len(), *line)));
    let longest = lengths.clone().map(|(length, _)| length).max().unwrap_or(0);
    let length = texts.length.unwrap_or(longest);
    for (what, most, way_out) in [
        (
            "the model's positions",
            limits.positions,
            "cut longer texts: write `max_length`",
        ),
        (
            "the stated `length`",
            texts.length,
            "write a greater `length`, or cut by `max_length`",
        ),
    ] {
        let Some(most) = most else { continue };
        if let Some((tokens, line)) = lengths.clone().find(|(tokens, _)| *tokens > most) {
            let message = format!("{} {line} has {tokens} tokens, more than {what}, {most}", source.unit());
            return Err(source
                .error(ErrorKind::Shape, message)
                .help(format!("{way_out} = {most}")));
        }
        if length > most {
            let message = format!("`length` is {length}, more than {what}, {most}");
            return Err(source
                .error(ErrorKind::Shape, message)
                .help(format!("write `length = {most}`")));
        }
    }
    if longest == 0 {
        return Err(source.error(ErrorKind::Empty, "the tokenizer finds no token in any text"));
    }
    let rows = samples.first().map_or(1, |(_, rows)| rows.len());
    let shape = match rows {
        1 => vec![samples.len(), length],
        _ => vec![samples.len(), rows, length],
    };
    let array = |value: &dyn Fn(&Encoded, usize) -> Option<i64>, fill: i64| {
        let rows = samples.iter().flat_map(|(_, rows)| rows);
        let values = rows.flat_map(|row| (0..length).map(move |at| value(row, at).unwrap_or(fill)));
        Tensor::from_vec(shape.clone(), values.collect())
    };
    let number = |values: &[u32], at: usize| values.get(at).map(|value| i64::from(*value));
    let within = |row: &Encoded, at: usize, value: i64| (at < row.ids.len()).then_some(value);
    Ok(NamedArrays::from([
        (
            "input_ids".into(),
            array(&|row, at| number(&row.ids, at), tokenizer.padding().into()),
        ),
        ("attention_mask".into(), array(&|row, at| within(row, at, 1), 0)),
        ("token_type_ids".into(), array(&|row, at| number(&row.kinds, at), 0)),
        ("position_ids".into(), array(&|_, at| Some(at as i64), 0)),
    ]))
}

/// What stands for a sample, however it is padded: its tokens.
fn identity(rows: &[Encoded]) -> SampleDigest {
    let mut digest = Sha256::new();
    for row in rows {
        digest.update((row.ids.len() as u64).to_le_bytes());
        for id in &row.ids {
            digest.update(id.to_le_bytes());
        }
    }
    digest.finalize().into()
}
