//! What every scheduled function is wrapped in: the settings that all have ([`settings`]), logs and the Lambda
//! runtime's loop ([`serve`]), and one run at a time ([`turn`]). Knows no job, and no AWS service.

pub mod serve;
pub mod settings;
pub mod turn;
