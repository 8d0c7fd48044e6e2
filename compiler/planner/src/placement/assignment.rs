//! The cheapest assignment of rows to columns of a square matrix.
//!
//! Invariant: the result is a permutation and no other costs less. Shortest augmenting paths with potentials (Kuhn 1955, Munkres 1957, in the
//! form of Jonker and Volgenant 1987): n³ steps.

/// The column of each row.
pub(super) fn assign(cost: &[Vec<i64>]) -> Vec<usize> {
    let n = cost.len();
    // Column n is where the row that is being inserted starts.
    let (mut row_price, mut column_price) = (vec![0_i64; n], vec![0_i64; n + 1]);
    let mut row_of: Vec<Option<usize>> = vec![None; n + 1];
    for row in 0..n {
        row_of[n] = Some(row);
        let mut column = n;
        let (mut slack, mut previous, mut seen) = (vec![i64::MAX; n], vec![n; n], vec![false; n + 1]);
        while let Some(current) = row_of[column] {
            seen[column] = true;
            let (mut step, mut next) = (i64::MAX, n);
            for other in (0..n).filter(|&other| !seen[other]) {
                let reduced = cost[current][other] - row_price[current] - column_price[other];
                if reduced < slack[other] {
                    (slack[other], previous[other]) = (reduced, column);
                }
                if slack[other] < step {
                    (step, next) = (slack[other], other);
                }
            }
            for other in 0..=n {
                if seen[other] {
                    if let Some(row) = row_of[other] {
                        row_price[row] += step;
                    }
                    column_price[other] -= step;
                } else {
                    // Only columns below n are unseen: n is where the path starts.
                    slack[other] -= step;
                }
            }
            column = next;
        }
        // Along the path back, every column gets the row of the one before it.
        while column != n {
            let before = previous[column];
            row_of[column] = row_of[before];
            column = before;
        }
    }
    let mut columns = vec![0; n];
    for (column, row) in row_of[..n].iter().enumerate() {
        if let Some(row) = *row {
            columns[row] = column;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use moe_random::Random;

    use super::*;

    fn cheapest(cost: &[Vec<i64>], row: usize, used: &mut Vec<bool>) -> i64 {
        if row == cost.len() {
            return 0;
        }
        let mut best = i64::MAX;
        for column in 0..cost.len() {
            if !used[column] {
                used[column] = true;
                best = best.min(cost[row][column] + cheapest(cost, row + 1, used));
                used[column] = false;
            }
        }
        best
    }

    #[test]
    fn as_cheap_as_the_best_of_all_permutations() {
        let mut random = Random::stream(7, 0);
        for case in 0..300 {
            let n = 1 + case % 6;
            let cost: Vec<Vec<i64>> = (0..n).map(|_| (0..n).map(|_| random.below(9) as i64).collect()).collect();
            let columns = assign(&cost);
            let mut seen = columns.clone();
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
            let found: i64 = columns.iter().enumerate().map(|(row, &column)| cost[row][column]).sum();
            assert_eq!(found, cheapest(&cost, 0, &mut vec![false; n]), "{cost:?}");
        }
    }
}
