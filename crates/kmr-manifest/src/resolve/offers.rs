//! Finding a name among what is offered.

use super::Resolution;
use crate::suggest::{listed, nearest, quoted};
use crate::{ErrorKind, ExtensionKind, MeterOffer, Placed, PolicyOffer, RuleOffer};

/// What the three kinds of offers have in common.
pub(super) trait Offer {
    const KIND: ExtensionKind;
    fn id(&self) -> &str;
    fn plugin(&self) -> &str;
}

impl Offer for RuleOffer {
    const KIND: ExtensionKind = ExtensionKind::Rule;

    fn id(&self) -> &str {
        &self.id
    }

    fn plugin(&self) -> &str {
        &self.plugin
    }
}

impl Offer for MeterOffer {
    const KIND: ExtensionKind = ExtensionKind::Meter;

    fn id(&self) -> &str {
        &self.id
    }

    fn plugin(&self) -> &str {
        self.plugin.as_deref().unwrap_or(HOST)
    }
}

impl Offer for PolicyOffer {
    const KIND: ExtensionKind = ExtensionKind::Policy;

    fn id(&self) -> &str {
        &self.id
    }

    fn plugin(&self) -> &str {
        self.plugin.as_deref().unwrap_or(HOST)
    }
}

const HOST: &str = "kmr itself";

impl<'m> Resolution<'m> {
    /// The one offer of this name, or a problem.
    pub(super) fn find<O: Offer>(&mut self, name: &Placed<String>, offers: &'m [O]) -> Option<&'m O> {
        let matching: Vec<&O> = offers.iter().filter(|o| o.id() == name.value).collect();
        match matching.as_slice() {
            [one] => Some(one),
            [] => {
                self.report_missing(name, offers);
                None
            }
            several => {
                let plugins = several.iter().map(|offer| offer.plugin());
                let message = format!(
                    "{} {} is offered more than once: by {}",
                    O::KIND,
                    quoted(name),
                    listed(plugins)
                );
                let help = "leave all but one of these plugins out of the plugin paths";
                self.report(ErrorKind::Extension, &name.span, message, help);
                None
            }
        }
    }

    fn report_missing<O: Offer>(&mut self, name: &Placed<String>, offers: &'m [O]) {
        let kind = O::KIND;
        let unavailable = self.catalog.unavailable.iter();
        let reasons: Vec<String> = unavailable
            .filter(|other| other.kind == kind && other.id == name.value)
            .map(|other| format!("plugin {} offers it but {}", quoted(&other.plugin), other.reason))
            .collect();
        if !reasons.is_empty() {
            let message = format!("no usable plugin offers the {kind} {}", quoted(name));
            let help = reasons.join("; ");
            self.report(ErrorKind::Extension, &name.span, message, help);
            return;
        }
        let offered = || offers.iter().map(Offer::id);
        let help = match (nearest(name, offered()), offers.is_empty()) {
            (_, true) => {
                format!("no {kind} is offered at all: name the plugins' folder in [plugins] `paths`")
            }
            (Some(near), _) => format!("did you mean {}? offered are {}", quoted(near), listed(offered())),
            (None, _) => format!("offered are {}", listed(offered())),
        };
        let message = format!("no plugin offers the {kind} {}", quoted(name));
        self.report(ErrorKind::Extension, &name.span, message, help);
    }
}
