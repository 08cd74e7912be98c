//! The loss of a batch, and its derivatives.

use kmr_methods::loss::{Loss, cross_entropy, divergence, mean_square};
use kmr_sdk::{Batch, Error, ErrorCode, Result, logits::Layout, model::Tensor};

use crate::features::Feature;

/// What a model is trained for.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// The student's value that holds the logits.
    pub logits: String,
    /// The teacher's.
    pub teacher_logits: String,
    /// The axis of classes.
    pub class_axis: Option<i64>,
    /// The share of the soft loss.
    pub alpha: f64,
    /// What scores are divided by in it.
    pub temperature: f64,
    /// What a label leaves to all classes together.
    pub label_smoothing: f64,
    /// Inner values with their aims.
    pub features: Vec<Feature>,
}

/// What a batch says.
#[derive(Clone, Debug, PartialEq)]
pub struct Graded {
    /// The loss, a mean over samples.
    pub loss: f64,
    /// Its derivatives by the student's values, under their names.
    pub derivatives: Vec<(String, Tensor)>,
}

impl Objective {
    /// The student's values that a batch is graded by.
    pub fn student_values(&self) -> Vec<&str> {
        let features = self.features.iter().map(|feature| feature.student.as_str());
        distinct(std::iter::once(self.logits.as_str()).chain(features))
    }

    /// The teacher's values that it is compared with; none if there is nothing to compare.
    pub fn teacher_values(&self) -> Vec<&str> {
        let features = self.features.iter().map(|feature| feature.teacher.as_str());
        distinct(
            (self.alpha > 0.0)
                .then_some(self.teacher_logits.as_str())
                .into_iter()
                .chain(features),
        )
    }

    /// The loss of a batch by what student and teacher made of it, its derivatives multiplied by `share`.
    ///
    /// # Errors
    /// If shapes do not go together, or a label is no class.
    pub fn grade(
        &self,
        batch: &Batch,
        student: &[(String, Tensor)],
        teacher: &[(String, Tensor)],
        share: f64,
    ) -> Result<Graded> {
        let mut graded = Graded {
            loss: 0.0,
            derivatives: Vec::new(),
        };
        let logits = find(student, &self.logits)?;
        let layout = Layout::of(&self.logits, logits.shape(), self.class_axis)?;
        let rows = layout.rows(&floats(logits, &self.logits)?);
        if self.alpha < 1.0 {
            let loss = self.hard(&rows, layout.classes(), batch)?;
            graded.add(&self.logits, loss, 1.0 - self.alpha, share, |slopes| {
                layout.tensor(slopes)
            })?;
        }
        if self.alpha > 0.0 {
            let aim = find(teacher, &self.teacher_logits)?;
            if aim.shape() != logits.shape() {
                return Err(differ(&self.logits, logits, &self.teacher_logits, aim));
            }
            let aim = layout.rows(&floats(aim, &self.teacher_logits)?);
            // One number in a row is no distribution, but a quantity.
            let loss = match layout.classes() {
                1 => mean_square(&rows, &aim),
                classes => divergence(&rows, &aim, classes, self.temperature),
            };
            graded.add(&self.logits, loss.map_err(unexpected)?, self.alpha, share, |slopes| {
                layout.tensor(slopes)
            })?;
        }
        for feature in &self.features {
            let (own, aim) = (find(student, &feature.student)?, find(teacher, &feature.teacher)?);
            if own.shape() != aim.shape() {
                return Err(differ(&feature.student, own, &feature.teacher, aim));
            }
            let loss = mean_square(&floats(own, &feature.student)?, &floats(aim, &feature.teacher)?);
            let tensor = |slopes: &[f32]| Tensor::from_vec(own.shape().to_vec(), slopes.to_vec());
            graded.add(
                &feature.student,
                loss.map_err(unexpected)?,
                feature.weight,
                share,
                tensor,
            )?;
        }
        Ok(graded)
    }

    /// The loss by the labels.
    fn hard(&self, rows: &[f32], classes: usize, batch: &Batch) -> Result<Loss> {
        let name = &self.logits;
        let labels = batch.labels()?;
        if classes < 2 {
            let message = format!(
                "value `{name}` has one number for each sample and no classes that labels could name; \
                 set alpha = 1, or name the logits by `output`"
            );
            return Err(Error::unsupported(message).at("config.alpha"));
        }
        if labels.len() * classes != rows.len() {
            let message = format!(
                "{} labels for {} rows of `{name}`; set alpha = 1 to train without labels",
                labels.len(),
                rows.len() / classes
            );
            return Err(Error::new(ErrorCode::SHAPE, message).at("training data"));
        }
        cross_entropy(rows, classes, &labels, self.label_smoothing)
            .map_err(|error| Error::invalid_request(format!("{error} (value `{name}`)")).at("training data"))
    }
}

impl Graded {
    /// Adds `weight` times a loss by the value `name`.
    fn add(
        &mut self,
        name: &str,
        loss: Loss,
        weight: f64,
        share: f64,
        tensor: impl Fn(&[f32]) -> Tensor,
    ) -> Result<()> {
        self.loss += weight * loss.value;
        let factor = weight * share;
        let slopes: Vec<f32> = loss
            .derivative
            .iter()
            .map(|&slope| (f64::from(slope) * factor) as f32)
            .collect();
        let slopes = tensor(&slopes);
        match self.derivatives.iter_mut().find(|(known, _)| known == name) {
            None => self.derivatives.push((name.to_owned(), slopes)),
            Some((_, known)) => {
                let sum = known
                    .values::<f32>()?
                    .iter()
                    .zip(slopes.values::<f32>()?.iter())
                    .map(|(a, b)| a + b)
                    .collect();
                *known = Tensor::from_vec(known.shape().to_vec(), sum);
            }
        }
        Ok(())
    }
}

fn distinct<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn find<'t>(tensors: &'t [(String, Tensor)], name: &str) -> Result<&'t Tensor> {
    let found = tensors.iter().find(|(known, _)| known == name);
    let missing = || Error::not_found("the session gave no such value").at(format!("value `{name}`"));
    found.map(|(_, tensor)| tensor).ok_or_else(missing)
}

fn floats<'t>(tensor: &'t Tensor, name: &str) -> Result<std::borrow::Cow<'t, [f32]>> {
    tensor.to_f32().map_err(|_| {
        let message = format!("holds {}; losses are of floating-point numbers", tensor.dtype());
        Error::unsupported(message).at(format!("value `{name}`"))
    })
}

fn differ(own: &str, tensor: &Tensor, aim: &str, other: &Tensor) -> Error {
    let message = format!(
        "has the shape {:?}; the teacher's `{aim}` has {:?}, so they cannot be compared. Choose another `teacher`, or \
         name values of equal shapes",
        tensor.shape(),
        other.shape()
    );
    Error::new(ErrorCode::SHAPE, message).at(format!("value `{own}`"))
}

fn unexpected(error: kmr_methods::MethodError) -> Error {
    Error::invalid_request(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objective(alpha: f64) -> Objective {
        Objective {
            logits: "y".into(),
            teacher_logits: "t".into(),
            class_axis: None,
            alpha,
            temperature: 2.0,
            label_smoothing: 0.0,
            features: Vec::new(),
        }
    }

    fn batch(labels: Option<Vec<i64>>) -> Batch {
        Batch {
            size: 2,
            inputs: Vec::new(),
            labels: labels.map(|labels| Tensor::from_vec(vec![labels.len()], labels)),
            outputs: Vec::new(),
        }
    }

    fn named(name: &str, shape: &[usize], values: &[f32]) -> Vec<(String, Tensor)> {
        vec![(name.into(), Tensor::from_vec(shape.to_vec(), values.to_vec()))]
    }

    #[test]
    fn the_sum_of_losses_has_the_sum_of_slopes() {
        let mut objective = objective(0.25);
        objective.features = vec![Feature {
            student: "y".into(),
            teacher: "t".into(),
            weight: 3.0,
        }];
        let (student, teacher) = ([0.5_f32, -0.25, 1.0, 0.75], [0.1_f32, 0.2, -0.3, 0.4]);
        let loss = |values: &[f32]| {
            objective.grade(
                &batch(Some(vec![1, 0])),
                &named("y", &[2, 2], values),
                &named("t", &[2, 2], &teacher),
                1.0,
            )
        };
        let graded = loss(&student).unwrap();
        assert_eq!(graded.derivatives.len(), 1);
        let slopes = graded.derivatives[0].1.values::<f32>().unwrap().into_owned();
        for place in 0..4 {
            let moved = |by: f32| {
                let mut values = student;
                values[place] += by;
                loss(&values).unwrap().loss
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (difference - f64::from(slopes[place])).abs() < 1e-3,
                "{difference} {slopes:?}"
            );
        }
        assert_eq!(
            (objective.student_values(), objective.teacher_values()),
            (vec!["y"], vec!["t"])
        );
    }

    #[test]
    fn one_number_in_a_row_is_a_quantity() {
        let graded = objective(1.0).grade(
            &batch(None),
            &named("y", &[2, 1], &[1.0, 3.0]),
            &named("t", &[2, 1], &[0.0; 2]),
            0.5,
        );
        let graded = graded.unwrap();
        assert_eq!(graded.loss, 5.0);
        assert_eq!(*graded.derivatives[0].1.values::<f32>().unwrap(), [0.5, 1.5]);
        let hard = objective(0.0).grade(&batch(Some(vec![0, 0])), &named("y", &[2, 1], &[1.0, 3.0]), &[], 1.0);
        assert!(hard.unwrap_err().to_string().contains("set alpha = 1"));
        assert!(objective(0.0).teacher_values().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let grade = |alpha, labels, teacher: &[usize]| {
            let teacher = named("t", teacher, &vec![0.0; teacher.iter().product()]);
            objective(alpha)
                .grade(&batch(labels), &named("y", &[2, 2], &[0.0; 4]), &teacher, 1.0)
                .unwrap_err()
                .to_string()
        };
        let error = grade(1.0, None, &[2, 3]);
        assert!(
            error.starts_with("value `y`: has the shape [2, 2]; the teacher's `t` has [2, 3]"),
            "{error}"
        );
        let error = grade(0.0, Some(vec![0, 2]), &[2, 2]);
        assert_eq!(
            error,
            "training data: label 2 of row 1 is none of the 2 classes, which count from 0 (value `y`)"
        );
        assert!(grade(0.5, Some(vec![0]), &[2, 2]).contains("1 labels for 2 rows of `y`"));
        assert!(grade(0.5, None, &[2, 2]).contains("no labels"));
        let integers = vec![("y".to_owned(), Tensor::from_vec(vec![2, 2], vec![0_i64; 4]))];
        let error = objective(0.0)
            .grade(&batch(None), &integers, &[], 1.0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds int64"), "{error}");
    }
}
