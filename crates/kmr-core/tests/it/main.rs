mod error_rates;
mod frontier;
mod knapsack;
mod policies;
mod proposition_1;
mod search;
mod stages;
mod toy;
