//! A whole divided among its parts, as cells of one line.

/// What the cells of the first part are filled with, of the second, and so on. Nothing in them needs a colour, and no
/// two that stand beside each other are taken for one.
const FILLS: &str = "#=+:*-%o@~x|&^$!ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// What the part with this place is filled with. More parts than there are fills begin anew.
pub(super) fn fill(place: usize) -> char {
    char::from(FILLS.as_bytes()[place % FILLS.len()])
}

/// How many of `width` cells each part gets: by the largest remainder, and at least one if it is above 0. Where there
/// are more such parts than cells, the largest get one each. Together they are `width`, unless all parts are 0.
pub(super) fn cells(parts: &[u64], width: usize) -> Vec<usize> {
    let mut cells = vec![0; parts.len()];
    let mut largest: Vec<usize> = (0..parts.len()).filter(|place| parts[*place] > 0).collect();
    if largest.len() >= width {
        // A stable sort: of equal parts the earlier ones have their cells.
        largest.sort_by_key(|place| std::cmp::Reverse(parts[*place]));
        for place in largest.into_iter().take(width) {
            cells[place] = 1;
        }
        return cells;
    }
    let total: u128 = parts.iter().copied().map(u128::from).sum();
    if total == 0 {
        return cells;
    }
    for (part, cells) in parts.iter().zip(&mut cells) {
        let whole = u128::from(*part) * width as u128 / total;
        *cells = usize::try_from(whole).unwrap_or(width).max(usize::from(*part > 0));
    }
    // What a part should have beyond its cells, in fractions of a cell; below 0 if it has too much.
    let missing = |place: usize, cells: &[usize]| {
        let should = u128::from(parts[place]) * width as u128;
        let has = cells[place] as u128 * total;
        (should.saturating_sub(has), std::cmp::Reverse(has.saturating_sub(should)))
    };
    while cells.iter().sum::<usize>() < width {
        // Of equals the first, as with the ones below.
        let most = largest.iter().rev().max_by_key(|place| missing(**place, &cells));
        let Some(place) = most else { break };
        cells[*place] += 1;
    }
    while cells.iter().sum::<usize>() > width {
        let wide = largest.iter().filter(|place| cells[**place] > 1);
        let Some(place) = wide.min_by_key(|place| missing(**place, &cells)) else { break };
        cells[*place] -= 1;
    }
    cells
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cells_are_in_proportion_and_nothing_above_0_is_without_one() {
        for (parts, width, expected) in [
            (&[][..], 10, &[][..]),
            (&[0, 0], 10, &[0, 0]),
            (&[1], 10, &[10]),
            (&[1, 1], 10, &[5, 5]),
            (&[1, 1, 1], 10, &[4, 3, 3]),
            (&[50, 0, 25, 25], 8, &[4, 0, 2, 2]),
            (&[1, 1_000_000], 10, &[1, 9]),
            // Two of them need what the others must give.
            (&[1, 1, 1_000, 1_000], 10, &[1, 1, 4, 4]),
            (&[1, 1, 1_000, 1_001], 9, &[1, 1, 3, 4]),
            (&[5, 9, 7], 2, &[0, 1, 1]),
            (&[5, 5, 5], 2, &[1, 1, 0]),
            (&[5, 9, 7], 3, &[1, 1, 1]),
            (&[5, 9], 0, &[0, 0]),
            (&[u64::MAX, u64::MAX, u64::MAX], 9, &[3, 3, 3]),
        ] {
            assert_eq!(cells(parts, width), expected, "{parts:?} in {width}");
        }
    }

    #[test]
    fn fills_differ() {
        let fills: std::collections::BTreeSet<_> = (0..FILLS.len()).map(fill).collect();
        assert_eq!(fills.len(), FILLS.len());
        assert!(!fills.contains(&'?'), "that is for what has no name");
        assert_eq!(fill(FILLS.len()), fill(0));
    }

    fn part() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(1), 0..1_000_u64, any::<u64>()]
    }

    proptest! {
        #[test]
        fn cells_are_as_many_as_the_line_is_wide(
            parts in prop::collection::vec(part(), 0..20),
            width in 0_usize..200,
        ) {
            let cells = cells(&parts, width);
            let above = parts.iter().filter(|part| **part > 0).count();
            prop_assert_eq!(cells.iter().sum::<usize>(), if above == 0 { 0 } else { width });
            for (part, cells) in parts.iter().zip(&cells) {
                prop_assert!(*part > 0 || *cells == 0);
                prop_assert!(*part == 0 || *cells > 0 || above > width);
            }
            // More is never shown as less.
            for (one, its) in parts.iter().zip(&cells) {
                for (other, others) in parts.iter().zip(&cells) {
                    prop_assert!(one >= other || its <= others);
                }
            }
        }
    }
}
