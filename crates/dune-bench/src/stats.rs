//! Many repeats, one figure.

use serde::Serialize;

/// The median of some repeats, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The middle one; with an even number of repeats the mean of the middle two.
    pub median: f64,
    /// The cheapest.
    pub min: f64,
    /// The dearest.
    pub max: f64,
}

impl Summary {
    /// Sums up `repeats`; `None` if there are none.
    pub fn of(mut repeats: Vec<f64>) -> Option<Summary> {
        repeats.sort_by(f64::total_cmp);
        let (&min, &max) = (repeats.first()?, repeats.last()?);
        let middle = repeats.len() / 2;
        let median = if repeats.len() % 2 == 1 {
            repeats[middle]
        } else {
            (repeats[middle - 1] + repeats[middle]) / 2.0
        };
        Some(Summary { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Summary::of(vec![]), None);
    }

    #[test]
    fn one_repeat_is_its_own_median() {
        assert_eq!(Summary::of(vec![7.0]), Some(Summary { median: 7.0, min: 7.0, max: 7.0 }));
    }

    #[test]
    fn an_outlier_moves_the_maximum_only() {
        let summary = Summary::of(vec![3.0, 1000.0, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, min: 1.0, max: 1000.0 });
    }

    #[test]
    fn an_even_number_takes_the_mean_of_the_middle() {
        assert_eq!(Summary::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }
}
