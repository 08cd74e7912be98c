//! The loop: batches, losses, steps.

use kmr_methods::schedule::Schedule;
use kmr_sdk::{Batch, Error, ErrorCode, Host, Result, Session, log, model::Tensor, serde_json};
use serde::{Deserialize, Serialize};

use crate::{average::Average, course::Course, objective::Objective};

/// All that a training follows.
pub struct Training<'p> {
    /// What for.
    pub objective: &'p Objective,
    /// How long.
    pub course: Course,
    /// How fast.
    pub schedule: Schedule,
    /// Whether batch normalizations use each batch's own statistics.
    pub batch_statistics: bool,
}

/// What is remembered at the end of each pass over the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Batches done.
    pub batches: usize,
    /// The loss of the first batch.
    pub first: f64,
    /// The mean loss of each pass.
    pub losses: Vec<f64>,
    /// The average's numbers, bit by bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    average: Option<Vec<u32>>,
}

impl Training<'_> {
    /// Trains `student`, comparing it with `teacher`, which draws the same batches.
    ///
    /// Goes on from a checkpoint, if there is one. On failure the student is as at the end of the last whole pass.
    ///
    /// # Errors
    /// If the loss or a gradient is not finite, the data does not fit the loss, or training is to end.
    pub fn run(
        &self,
        host: &Host<'_>,
        student: &mut Session<'_>,
        mut teacher: Option<&mut Session<'_>>,
        mut average: Option<&mut Average>,
    ) -> Result<Done> {
        let mut done = self.resume(student, teacher.as_deref_mut(), average.as_deref_mut())?;
        let course = self.course;
        student.train(self.batch_statistics)?;
        student.save()?;
        let mut losses: Vec<f64> = Vec::new();
        for at in done.batches..course.batches {
            let loss = losses
                .last()
                .map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
            host.progress(at as f64 / course.batches as f64, &(course.place(at) + &loss))?;
            let loss = match self.batch(at, student, teacher.as_deref_mut()) {
                Ok(loss) => loss,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::NotFinite(what)) => return Err(self.diverged(at, &what, student)?),
            };
            if at == 0 {
                done.first = loss;
            }
            losses.push(loss);
            if course.ends_step(at) {
                let rate = self.schedule.rate(course.step_of(at), course.steps());
                let what = match student.step(rate) {
                    Ok(norm) if norm.is_finite() => None,
                    Ok(norm) => Some(format!("the norm of the gradient is {norm}")),
                    Err(error) if error.code == ErrorCode::INVALID_REQUEST => Some(error.to_string()),
                    Err(error) => return Err(error),
                };
                if let Some(what) = what {
                    return Err(self.diverged(at, &what, student)?);
                }
                if let Some(average) = average.as_deref_mut() {
                    average.update(student, course.step_of(at) + 1)?;
                }
            }
            if course.ends_pass(at) || at + 1 == course.batches {
                done.losses.push(losses.iter().sum::<f64>() / losses.len() as f64);
                losses.clear();
            }
            if course.ends_pass(at) {
                ended(student)?;
                teacher.as_deref_mut().map_or(Ok(()), ended)?;
                done.batches = at + 1;
                done.average = average.as_deref().map(Average::bits);
                student.save()?;
                student.checkpoint(&serde_json::to_string(&done)?)?;
                let pass = done.losses.len();
                log::info!("epoch {pass}: mean loss {:.4}", done.losses[pass - 1]);
            }
        }
        done.batches = course.batches;
        Ok(done)
    }

    /// Goes on from a checkpoint, if there is one: the teacher catches up by drawing what the student has drawn.
    fn resume(
        &self,
        student: &mut Session<'_>,
        teacher: Option<&mut Session<'_>>,
        average: Option<&mut Average>,
    ) -> Result<Done> {
        let Some(note) = student.resume()? else {
            return Ok(Done::default());
        };
        let done: Done = serde_json::from_str(&note)?;
        log::info!(
            "goes on from a checkpoint after {} of {} batches",
            done.batches,
            self.course.batches
        );
        if let Some(teacher) = teacher {
            for _ in 0..done.batches / self.course.pass {
                while teacher.next_batch()?.is_some() {}
            }
        }
        if let (Some(average), Some(bits)) = (average, &done.average) {
            average.recall(bits);
        }
        Ok(done)
    }

    /// The loss of a batch, whose derivatives are pulled back.
    fn batch(&self, at: usize, student: &mut Session<'_>, teacher: Option<&mut Session<'_>>) -> Result<f64, Stop> {
        let place = self.course.place(at);
        let batch = draw(student, &place)?;
        let aims = match teacher {
            Some(teacher) => {
                let same = draw(teacher, &place)?;
                if same.size != batch.size {
                    let message = format!("the teacher drew {} samples and the student {}", same.size, batch.size);
                    return Err(Error::new(ErrorCode::OTHER, message).at(place).into());
                }
                teacher.forward(&self.objective.teacher_values())?
            }
            None => Vec::new(),
        };
        let answers = student.forward(&self.objective.student_values())?;
        let share = 1.0 / self.course.step_size(at) as f64;
        let graded = self.objective.grade(&batch, &answers, &aims, share);
        let graded = graded.map_err(|error| {
            let location = [place.as_str(), error.location.as_str()];
            let location: Vec<&str> = location.into_iter().filter(|part| !part.is_empty()).collect();
            let location = location.join(", ");
            error.at(location)
        })?;
        if !graded.loss.is_finite() {
            let message = match wrong(&aims) {
                Some(name) => format!("the teacher's `{name}` holds what is no number"),
                None => format!("the loss is {}", graded.loss),
            };
            return Err(Stop::NotFinite(message));
        }
        let derivatives: Vec<(&str, &Tensor)> = graded
            .derivatives
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        student.backward(&derivatives)?;
        Ok(graded.loss)
    }

    /// The error of a batch that gave no number. The student goes back to where it was last good.
    fn diverged(&self, at: usize, what: &str, student: &mut Session<'_>) -> Result<Error> {
        student.restore()?;
        let rate = self.schedule.rate(self.course.step_of(at), self.course.steps());
        let message = format!(
            "{what}, so training has failed and the model stays as it was; the learning rate was {rate:.3e} there. \
             Try a smaller `learning_rate`, a `clip_norm` of 1, or a longer `warm_up`"
        );
        Ok(Error::new(ErrorCode::OTHER, message).at(self.course.place(at)))
    }
}

/// Why a batch gives no loss.
enum Stop {
    /// What is not finite.
    NotFinite(String),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The first of `tensors` that holds NaN or an infinity.
fn wrong(tensors: &[(String, Tensor)]) -> Option<&str> {
    let finite = |tensor: &Tensor| {
        tensor
            .to_f32()
            .is_ok_and(|values| values.iter().all(|value| value.is_finite()))
    };
    tensors
        .iter()
        .find(|(_, tensor)| !finite(tensor))
        .map(|(name, _)| name.as_str())
}

fn draw(session: &mut Session<'_>, place: &str) -> Result<Batch> {
    session.next_batch()?.ok_or_else(|| {
        let message = "the training data ended sooner than when its batches were counted";
        Error::new(ErrorCode::OTHER, message).at(place)
    })
}

/// Ends a pass over the data.
fn ended(session: &mut Session<'_>) -> Result<()> {
    match session.next_batch()? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            ErrorCode::OTHER,
            "the training data goes on longer than when its batches were counted",
        )),
    }
}
