//! The functions of the crate rand 0.4, with which HumanEval-X was made, on top of Debian's rand 0.8.
pub use rand08::distributions;
use rand08::distributions::uniform::SampleUniform;
use rand08::distributions::{Distribution, Standard};
pub use rand08::rngs::{StdRng, ThreadRng};
use rand08::seq::SliceRandom;
pub use rand08::{random, thread_rng, RngCore, SeedableRng};

pub trait Rng: RngCore {
    fn gen<T>(&mut self) -> T
    where
        Standard: Distribution<T>,
        Self: Sized,
    {
        rand08::Rng::gen(self)
    }

    fn gen_range<T: PartialOrd + SampleUniform>(&mut self, low: T, high: T) -> T
    where
        Self: Sized,
    {
        assert!(low < high, "Rng.gen_range called with low >= high");
        rand08::Rng::gen_range(self, low..high)
    }

    fn gen_weighted_bool(&mut self, n: u32) -> bool
    where
        Self: Sized,
    {
        n <= 1 || self.gen_range(0, n) == 0
    }

    fn choose<'a, T>(&mut self, values: &'a [T]) -> Option<&'a T>
    where
        Self: Sized,
    {
        values.choose(self)
    }

    fn choose_mut<'a, T>(&mut self, values: &'a mut [T]) -> Option<&'a mut T>
    where
        Self: Sized,
    {
        values.choose_mut(self)
    }

    fn shuffle<T>(&mut self, values: &mut [T])
    where
        Self: Sized,
    {
        values.shuffle(self)
    }
}

impl<R: RngCore> Rng for R {}
