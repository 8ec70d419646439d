//! Which datagrams of another node were taken: none is taken twice.

/// Numbers that are told apart behind the highest one: senders are several threads, and what they send overtakes.
const WIDTH: u64 = 4096;

const WORDS: usize = (WIDTH / 64) as usize;

/// The numbers of one sender that were seen.
#[derive(Debug)]
pub(crate) struct Window {
    /// One more than the highest.
    next: u64,
    /// A bit for each number of the last [`WIDTH`], at the place that its remainder names.
    seen: Box<[u64; WORDS]>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            seen: Box::new([0; WORDS]),
        }
    }
}

const fn place(number: u64) -> (usize, u64) {
    let at = number % WIDTH;
    ((at / 64) as usize, 1 << (at % 64))
}

impl Window {
    /// Whether a number was not seen, and is not too old to tell.
    pub(crate) fn admits(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        number >= self.next
            || self.next - number <= WIDTH && self.seen.get(word).is_some_and(|seen| seen & bit == 0)
    }

    /// A number that was admitted is seen.
    pub(crate) fn mark(&mut self, number: u64) {
        if number >= self.next {
            let passed = number - self.next;
            if passed >= WIDTH {
                self.seen.fill(0);
            } else {
                (self.next..number).for_each(|skipped| self.set(skipped, false));
            }
            self.next = number.saturating_add(1);
        }
        self.set(number, true);
    }

    fn set(&mut self, number: u64, is_seen: bool) {
        let (word, bit) = place(number);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen = if is_seen { *seen | bit } else { *seen & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_admitted_once_in_whatever_order_and_not_when_it_is_too_old() {
        let mut window = Window::default();
        for number in [
            0,
            3,
            1,
            2,
            5000,
            4999,
            5000 - WIDTH + 1,
            20_000,
            19_000,
            u64::MAX - 1,
        ] {
            assert!(window.admits(number), "{number}");
            window.mark(number);
            assert!(!window.admits(number), "{number}");
        }
        assert!(!window.admits(20_000) && window.admits(u64::MAX));
        let mut window = Window::default();
        for number in 0..3 * WIDTH {
            assert!(window.admits(number));
            window.mark(number);
        }
        assert!((0..3 * WIDTH).all(|number| !window.admits(number)));
        assert!(window.admits(3 * WIDTH));
    }
}
