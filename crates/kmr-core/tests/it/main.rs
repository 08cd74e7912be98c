mod error_rates;
mod policies;
mod proposition_1;
mod search;
mod stages;
mod toy;
