//! What must hold of every plan: capacities, who is placed before whom, and a true reason for everyone left out. It
//! knows the rules and not how the plan was found. What must hold of moves is in [`crate::rules`].

use std::collections::{BTreeMap, BTreeSet};

use longwatch_events::event::{Decision, PlanEntry};
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::reason::{AssignReason, UnplacedReason};
use longwatch_events::settings::Priority;
use longwatch_events::time::Timestamp;

use crate::view::{Ask, Obstacle, View};

/// A plan between what was and what is.
pub(crate) struct Case {
    pub(crate) now: Timestamp,
    pub(crate) before: View,
    pub(crate) after: View,
    pub(crate) decisions: BTreeMap<CopyKey, Decision>,
}

/// In which order copies are placed.
fn rank(view: &View, key: CopyKey) -> (Priority, u8, CopyKey) {
    (view.copies[&key].priority, key.copy, key)
}

impl Case {
    pub(crate) fn new(now: Timestamp, before: View, after: View, entries: &[PlanEntry]) -> Self {
        let decisions: BTreeMap<_, _> = entries.iter().map(|entry| (entry.key(), entry.decision)).collect();
        assert_eq!(decisions.len(), entries.len(), "a copy is decided about once");
        let turn = |entry: &PlanEntry| (before.copies[&entry.key()].priority, entry.key());
        assert!(entries.is_sorted_by_key(turn), "the important ones come first");
        Self { now, before, after, decisions }
    }

    /// Checks everything.
    pub(crate) fn check(&self) {
        self.nothing_is_exceeded();
        self.nobody_gets_what_they_may_not_have();
        self.copies_are_apart();
        self.who_is_off_is_nowhere();
        self.who_never_fails_over_waits();
        self.who_is_left_out_fits_nowhere();
        self.nobody_is_placed_before_a_higher_rank();
        self.only_low_gives_way_and_only_to_high();
        self.zones_are_shared_for_lack_of_others_only();
        self.moves_are_right();
    }

    /// The copies that this plan gives a place on a server, and the server.
    pub(crate) fn given(&self) -> impl Iterator<Item = (CopyKey, ServerId, AssignReason)> {
        self.decisions.iter().filter_map(|(key, decision)| match decision {
            Decision::Assign { server_id, reason } | Decision::Move { server_id, reason } => {
                Some((*key, *server_id, *reason))
            }
            Decision::Unplace { .. } | Decision::Finish { .. } | Decision::Abandon { .. } => None,
        })
    }

    /// Whether it took copies from servers that are up: what follows from the room they left is planned next.
    pub(crate) fn makes_room(&self) -> bool {
        self.decisions.iter().any(|(key, decision)| match decision {
            Decision::Finish { .. } | Decision::Abandon { .. } => true,
            Decision::Assign { .. } | Decision::Unplace { .. } => self.is_victim(*key),
            Decision::Move { .. } => false,
        })
    }

    fn nothing_is_exceeded(&self) {
        let nobody = BTreeSet::new();
        for (server_id, server) in &self.after.servers {
            let capacity = server.settings.capacity;
            let (cameras, bitrate_bps) = self.after.used(*server_id, &nobody);
            let (cameras_before, bitrate_before) = self.before.used(*server_id, &nobody);
            let is_given = self.given().any(|(_, to, _)| to == *server_id);
            // Whoever was made smaller keeps what it has, but gets no more.
            let (most, most_bps) = if is_given { (0, 0) } else { (cameras_before, bitrate_before) };
            assert!(cameras <= capacity.max_cameras.max(most), "{server_id} holds {cameras}: {capacity:?}");
            let max_bps = capacity.max_bitrate_bps.unwrap_or(u64::MAX).max(most_bps);
            assert!(bitrate_bps <= max_bps, "{server_id} takes {bitrate_bps} bit/s: {capacity:?}");

            let given: BTreeSet<_> =
                self.given().filter(|(_, to, _)| to == server_id).map(|(key, ..)| key).collect();
            let taken_over: Vec<_> = given.iter().filter(|key| self.is_taken_over(**key)).collect();
            let (held_otherwise, _) = self.after.used(*server_id, &given);
            let failover = server.settings.failover;
            let most = held_otherwise as usize + taken_over.len();
            assert!(taken_over.is_empty() || failover.enabled, "{server_id} takes over nothing");
            assert!(
                taken_over.is_empty() || most <= failover.takeover_limit as usize,
                "{server_id} takes {most}"
            );
        }
    }

    /// Whether the server that a copy is given takes it over from another.
    fn is_taken_over(&self, key: CopyKey) -> bool {
        match self.decisions[&key] {
            Decision::Assign { reason: AssignReason::Failover, .. }
            | Decision::Move { reason: AssignReason::Drain, .. } => true,
            Decision::Move { reason: AssignReason::OverCapacity, .. } => {
                self.before.copies[&key].home.is_some()
            }
            Decision::Assign { .. }
            | Decision::Move { .. }
            | Decision::Unplace { .. }
            | Decision::Finish { .. }
            | Decision::Abandon { .. } => false,
        }
    }

    fn nobody_gets_what_they_may_not_have(&self) {
        for (key, server_id, reason) in self.given() {
            let copy = &self.before.copies[&key];
            assert!(self.before.is_up(server_id), "{server_id} is lost");
            assert!(!self.before.is_draining(server_id), "{server_id} is being drained");
            assert!(!self.before.has_low_disk(server_id), "{server_id} has no space left");
            assert!(self.before.carries(server_id, &copy.labels), "{server_id} lacks labels");
            assert_ne!(copy.on.filter(|on| self.before.is_up(*on)), Some(server_id), "it was there already");
            let belongs_to = copy.home.or(copy.on);
            let is_named_truly = match reason {
                AssignReason::Preferred => copy.preferred == Some(server_id),
                AssignReason::Home => copy.home == Some(server_id),
                AssignReason::Failover => belongs_to.is_some_and(|home| home != server_id),
                AssignReason::Requested => copy.requested == Some(server_id),
                AssignReason::LeastLoaded => self.home_of(key).is_none(),
                AssignReason::Failback
                | AssignReason::Drain
                | AssignReason::OverCapacity
                | AssignReason::Labels
                | AssignReason::Rebalance => matches!(self.decisions[&key], Decision::Move { .. }),
            };
            assert!(is_named_truly, "{key:?} goes to {server_id} and that is called {reason:?}");
        }
    }

    fn copies_are_apart(&self) {
        for (key, copy) in &self.after.copies {
            let siblings = self.after.siblings_on(*key);
            let own = copy.on.into_iter().chain(copy.to);
            for server_id in own {
                assert!(!siblings.contains(&server_id), "two copies of {} on {server_id}", key.camera_id);
            }
        }
    }

    fn who_is_off_is_nowhere(&self) {
        for (key, copy) in self.after.copies.iter().filter(|(_, copy)| !copy.is_wanted) {
            assert_eq!((copy.on, copy.unplaced), (None, Some(UnplacedReason::Disabled)), "{key:?}");
        }
    }

    fn who_never_fails_over_waits(&self) {
        for (key, before) in &self.before.copies {
            let Some(on) = before.on.filter(|on| !self.before.is_up(*on)) else { continue };
            if !before.is_wanted || before.priority != Priority::Never {
                continue;
            }
            let after = &self.after.copies[key];
            let has_arrived = before.to.is_some_and(|to| self.before.is_up(to) && after.on == Some(to));
            assert!(after.on == Some(on) || has_arrived, "{key:?} of {on} was taken over");
        }
    }

    /// Where a copy belongs that has no server that is up.
    fn home_of(&self, key: CopyKey) -> Option<ServerId> {
        let copy = &self.before.copies[&key];
        copy.home.or(copy.on.filter(|on| !self.before.is_up(*on)))
    }

    /// Whether a copy had to give up its place in this plan.
    fn is_victim(&self, key: CopyKey) -> bool {
        let was_on = self.before.copies[&key].on.filter(|on| self.before.is_up(*on));
        let is_taken_away = match self.decisions.get(&key) {
            Some(Decision::Unplace { reason }) => *reason != UnplacedReason::Disabled,
            Some(Decision::Assign { .. }) => true,
            Some(Decision::Move { .. } | Decision::Finish { .. } | Decision::Abandon { .. }) | None => false,
        };
        was_on.is_some() && is_taken_away
    }

    /// What a copy without a server asks for. The servers of its siblings count with those that they are leaving.
    fn ask(&self, key: CopyKey, without: BTreeSet<CopyKey>) -> Ask {
        let mut taken = self.after.siblings_on(key);
        taken.extend(self.before.siblings_on(key));
        let leaving = self.before.copies[&key].on;
        Ask { home: self.home_of(key), leaving, without, taken }
    }

    /// The copies that this plan leaves without a server.
    fn left_out(&self) -> impl Iterator<Item = CopyKey> {
        let is_out = |copy: &crate::view::Copy| copy.is_wanted && copy.on.is_none();
        self.after.copies.iter().filter(move |(_, copy)| is_out(copy)).map(|(key, _)| *key)
    }

    fn who_is_left_out_fits_nowhere(&self) {
        for key in self.left_out() {
            let obstacles = self.after.obstacles(key, &self.ask(key, BTreeSet::new()));
            for (server_id, obstacle) in &obstacles {
                assert!(obstacle.is_some(), "{key:?} is left out beside room on {server_id}");
                let wished = self.after.copies[&key].requested == Some(*server_id);
                assert!(
                    !wished || self.obstacle_to_a_wish(key, *server_id).is_some(),
                    "{key:?} is left out beside room on {server_id}, which was wished for"
                );
            }
            let lack = match obstacles.values().copied().flatten().max() {
                None | Some(Obstacle::Draining | Obstacle::Leaving) => UnplacedReason::NoServer,
                Some(Obstacle::Labels) => UnplacedReason::NoLabels,
                Some(Obstacle::Disk) => UnplacedReason::NoDisk,
                Some(Obstacle::OtherCopy) => UnplacedReason::NoOtherServer,
                Some(Obstacle::Cameras) => UnplacedReason::NoCapacity,
                Some(Obstacle::Bitrate) => UnplacedReason::NoBitrate,
                Some(Obstacle::FailoverOff | Obstacle::TakeoverLimit) => UnplacedReason::NoTakeover,
            };
            let told = self.after.copies[&key].unplaced;
            let is_of_room = matches!(
                lack,
                UnplacedReason::NoCapacity | UnplacedReason::NoBitrate | UnplacedReason::NoTakeover
            );
            let was_preempted = self.before.copies[&key].unplaced == Some(UnplacedReason::Preempted);
            let is_preempted = self.is_victim(key) || (was_preempted && is_of_room);
            let expected = if is_preempted { UnplacedReason::Preempted } else { lack };
            assert_eq!(told, Some(expected), "{key:?}: {obstacles:?}");
        }
    }

    fn obstacle_to_a_wish(&self, key: CopyKey, server_id: ServerId) -> Option<Obstacle> {
        let ask = Ask { home: None, ..self.ask(key, BTreeSet::new()) };
        self.after.obstacle(key, server_id, &ask)
    }

    /// Nobody waits who would have fitted in the place that this plan gave to a lower rank.
    fn nobody_is_placed_before_a_higher_rank(&self) {
        let assigned: Vec<_> = self
            .decisions
            .iter()
            .filter_map(|(key, decision)| match decision {
                Decision::Assign { server_id, .. } => Some((*key, *server_id)),
                Decision::Move { .. }
                | Decision::Unplace { .. }
                | Decision::Finish { .. }
                | Decision::Abandon { .. } => None,
            })
            .collect();
        let moved: BTreeSet<_> = self
            .decisions
            .iter()
            .filter(|(_, decision)| matches!(decision, Decision::Move { .. }))
            .map(|(key, _)| *key)
            .collect();
        for left_out in self.left_out() {
            let lower =
                assigned.iter().filter(|(key, _)| rank(&self.after, left_out) < rank(&self.after, *key));
            for (_, server_id) in lower.clone() {
                let mut without = moved.clone();
                // Where a copy gave way there is more room than there was for those who came before.
                without.extend(lower.clone().filter(|(_, on)| on == server_id).map(|(key, _)| *key));
                without.retain(|key| self.before.copies[key].on != Some(*server_id));
                let ask = self.ask(left_out, without);
                assert!(
                    self.after.obstacle(left_out, *server_id, &ask).is_some(),
                    "{left_out:?} is left out, and a lower rank was given its place on {server_id}"
                );
            }
        }
    }

    fn only_low_gives_way_and_only_to_high(&self) {
        for (key, before) in &self.before.copies {
            let Some(on) = before.on.filter(|_| self.is_victim(*key)) else { continue };
            assert!(self.before.policy.preempt_low, "nobody is to give way");
            assert_eq!(before.priority, Priority::Low, "{key:?} gave way");
            let is_for_high = self
                .given()
                .any(|(other, to, _)| to == on && self.before.copies[&other].priority == Priority::High);
            assert!(is_for_high, "{key:?} gave way to nobody of priority high");
        }
    }

    /// The server on which a copy will be after this plan.
    fn goes_to(&self, key: CopyKey) -> Option<ServerId> {
        let after = &self.after.copies[&key];
        after.to.or(after.on).filter(|server_id| self.after.is_up(*server_id))
    }

    fn zones_are_shared_for_lack_of_others_only(&self) {
        for (key, server_id, _) in self.given().filter(|(key, to, reason)| self.is_chosen(*key, *to, *reason))
        {
            let is_move = |key: CopyKey| matches!(self.decisions.get(&key), Some(Decision::Move { .. }));
            let is_shared_with = self.siblings(key).filter(|other| {
                let zone = self.goes_to(*other).and_then(|on| self.after.zone(on));
                zone.is_some() && zone == self.after.zone(server_id)
            });
            for other in is_shared_with {
                let was_there_first = match (is_move(key), is_move(other)) {
                    // Which of two that were moved looked at the other is not known; that one had no choice.
                    (true, true) => self.zone_apart(other).is_some(),
                    (true, false) => true,
                    (false, true) => false,
                    (false, false) => other.copy < key.copy || !self.decisions.contains_key(&other),
                };
                let apart = self.zone_apart(key).filter(|_| was_there_first);
                assert_eq!(apart, None, "{key:?} shares the zone of {other:?}, and this one had room");
            }
        }
    }

    fn siblings(&self, key: CopyKey) -> impl Iterator<Item = CopyKey> {
        let is_sibling = move |other: &&CopyKey| {
            (other.tenant_id, other.camera_id) == (key.tenant_id, key.camera_id) && **other != key
        };
        self.after.copies.keys().filter(is_sibling).copied()
    }

    /// Whether the server was chosen for its zone and its load.
    fn is_chosen(&self, key: CopyKey, server_id: ServerId, reason: AssignReason) -> bool {
        let copy = &self.before.copies[&key];
        match reason {
            AssignReason::LeastLoaded => true,
            // It need only be no worse than where it was.
            AssignReason::Rebalance => {
                let mut siblings = self.before.siblings_on(key);
                siblings.extend(self.after.siblings_on(key));
                let mut zones = siblings.iter().filter(|id| self.before.is_up(**id));
                let was_in = copy.on.and_then(|on| self.before.zone(on));
                was_in.is_none() || !zones.any(|id| self.before.zone(*id) == was_in)
            }
            // Whoever prefers a server goes there, whatever its zone.
            AssignReason::Failover
            | AssignReason::Drain
            | AssignReason::OverCapacity
            | AssignReason::Labels => copy.preferred != Some(server_id),
            AssignReason::Preferred
            | AssignReason::Home
            | AssignReason::Failback
            | AssignReason::Requested => false,
        }
    }

    /// A server with room for a copy in a zone where no other copy of the camera is.
    fn zone_apart(&self, key: CopyKey) -> Option<ServerId> {
        let copy = &self.before.copies[&key];
        let zones: BTreeSet<_> =
            self.siblings(key).filter_map(|other| self.after.zone(self.goes_to(other)?)).collect();
        let home = if self.is_taken_over(key) { copy.home.or(copy.on) } else { None };
        let ask = Ask { home, ..self.ask(key, BTreeSet::from([key])) };
        let fitting = self.after.obstacles(key, &ask).into_iter().filter(|(_, obstacle)| obstacle.is_none());
        let is_apart = |id: &ServerId| self.after.zone(*id).is_none_or(|zone| !zones.contains(zone));
        fitting.map(|(id, _)| id).find(is_apart)
    }
}
