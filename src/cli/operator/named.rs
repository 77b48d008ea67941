//! An operator as an argument names it.

use crate::api::{Operator, Operators};
use crate::cli::exit::{Exit, Failure};

/// The trusted operator that `wanted` names, by its key or its name.
pub(in crate::cli) fn find<'o>(operators: &'o Operators, wanted: &str) -> Result<&'o Operator, Failure> {
    let mut found = operators
        .items
        .iter()
        .filter(|operator| operator.operator == wanted || operator.name == wanted);
    match (found.next(), found.next()) {
        (Some(operator), None) => Ok(operator),
        (Some(_), Some(_)) => Err(Failure::new(
            Exit::Usage,
            format!("several trusted operators are called {wanted:?}: give the key, see `jwtmesh operator show`"),
        )),
        (None, _) => Err(Failure::new(
            Exit::NotFound,
            format!("the mesh trusts no operator {wanted:?}; see `jwtmesh operator show`"),
        )),
    }
}
