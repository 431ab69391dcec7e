//! Planned moves: a copy that is recorded goes to another server, which begins before the old one ends.
//!
//! A move is begun by a plan ([`Decision::Move`]): from then on both servers record, and places are taken on both. It is
//! over when `RECORDINGS` shows the new server's first durable keyframe ([`Decision::Finish`]); or when it took too long:
//! then a copy that may stay stays ([`Decision::Abandon`]), and one whose server is being emptied is let go all the same,
//! which the log says.
//!
//! A camera that serves one client only cannot be recorded twice: the old server ends first, and the new one begins when
//! that is shown. It is moved only if somebody asked for something that makes it necessary, never to even out load.

use longwatch_events::event::Decision;
use longwatch_events::id::{CopyKey, ServerId};
use longwatch_events::index;
use longwatch_events::policy::Mode;
use longwatch_events::reason::{AbandonReason, AssignReason, FinishReason};
use longwatch_events::settings::Priority;
use longwatch_events::state::{Assignment, Camera, CameraCopy, Server};

use super::rooms::Request;
use super::{Draft, Step};

impl<'a> Draft<'a> {
    /// Ends the moves that have come to their end.
    pub(super) fn settle_moves(&mut self) {
        for key in self.inputs.state.index().moving() {
            let (camera, copy) = self.copy(key);
            let (Some(old), Some(new)) = (copy.assignment(), copy.successor()) else { continue };
            if !camera.wants_recording() {
                continue;
            }
            let Some(decision) = self.settled(key, camera, copy, old, new) else { continue };
            let (old, new, bitrate_bps) = (old.server_id, new.server_id, index::bitrate(camera));
            let left = if let Decision::Abandon { .. } = decision { new } else { old };
            self.rooms.give(left, bitrate_bps);
            self.rooms.stay(old, bitrate_bps);
            self.decide(key, camera, decision);
        }
    }

    /// What has become of a move, if it is over.
    fn settled(
        &self,
        key: CopyKey,
        camera: &Camera,
        copy: &CameraCopy,
        old: &Assignment,
        new: &Assignment,
    ) -> Option<Decision> {
        let epoch = new.epoch;
        let finish = |reason, evidence| Some(Decision::Finish { epoch, reason, evidence });
        let abandon = |reason| Some(Decision::Abandon { epoch, reason });
        if !self.is_up(new.server_id) {
            // If both servers are lost there is no move to speak of: the copy waits for a third one.
            let stays = self.is_up(old.server_id) || camera.settings.failover_priority == Priority::Never;
            return if stays { abandon(AbandonReason::NewLost) } else { None };
        }
        let one_at_a_time = camera.settings.single_session;
        let shown = self.inputs.evidence.get(&(key, epoch));
        match shown.map(|shown| (shown.what, shown.position)) {
            Some((Step::Begun, position)) => return finish(FinishReason::FirstKeyframe, Some(position)),
            Some((Step::Stopped, position)) if one_at_a_time => {
                return finish(FinishReason::Stopped, Some(position));
            }
            Some((Step::Stopped, _)) | None => {}
        }
        if !self.is_up(old.server_id) {
            return finish(FinishReason::OldLost, None);
        }
        if !self.is_still_wanted(camera, copy, old, new) {
            return abandon(AbandonReason::NotWanted);
        }
        let timeout_ms = i64::from(self.inputs.state.policy.moves.timeout_s) * 1_000;
        if self.inputs.now.millis_since(new.since) <= timeout_ms {
            return None;
        }
        // Of a camera that serves one client the old server was told to stop, so it is not what records.
        if one_at_a_time || self.must_leave(camera, old.server_id) {
            return finish(FinishReason::TimedOut, None);
        }
        abandon(AbandonReason::TimedOut)
    }

    /// Whether the server is being emptied, of this camera as well.
    fn must_leave(&self, camera: &Camera, server_id: ServerId) -> bool {
        self.is_draining(server_id) && camera.settings.failover_priority != Priority::Never
    }

    /// Whether what a move was begun for is still the case.
    fn is_still_wanted(
        &self,
        camera: &Camera,
        copy: &CameraCopy,
        old: &Assignment,
        new: &Assignment,
    ) -> bool {
        let labels = camera.settings.server_labels();
        let carries = |id| self.rooms.get(id).is_some_and(|room| room.has_labels(labels));
        if self.is_draining(new.server_id) || !carries(new.server_id) {
            return false;
        }
        match new.reason {
            AssignReason::Drain => self.must_leave(camera, old.server_id),
            AssignReason::Requested => copy.requested() == Some(new.server_id),
            AssignReason::Preferred => camera.settings.preferred_server_id == Some(new.server_id),
            AssignReason::Labels => !carries(old.server_id),
            AssignReason::LeastLoaded
            | AssignReason::Failover
            | AssignReason::Home
            | AssignReason::Failback
            | AssignReason::OverCapacity
            | AssignReason::Rebalance => true,
        }
    }

    fn is_draining(&self, server_id: ServerId) -> bool {
        self.inputs.state.server(server_id).is_some_and(|server| server.draining_since.is_some())
    }

    /// Begins as many moves as policy allows, the most pressing first.
    pub(super) fn begin_moves(&mut self) {
        let moving = self.inputs.state.index().moving();
        let under_way = moving.filter(|key| self.decision(*key, self.copy(*key).0).is_none()).count();
        let at_once = self.inputs.state.policy.moves.at_once as usize;
        let mut budget = at_once.saturating_sub(under_way);
        self.move_to_wished(&mut budget);
        self.drain(&mut budget);
        self.move_to_labels(&mut budget);
        self.relieve(&mut budget);
        self.fail_back(&mut budget);
        self.move_to_preferred(&mut budget);
        self.rebalance(&mut budget);
    }

    /// The copy, if a move of it may be begun: it is recorded by a server that is up, and nothing is decided about it.
    pub(super) fn movable(&self, key: CopyKey) -> Option<(&'a Camera, &'a CameraCopy, Assignment)> {
        let (camera, copy) = self.copy(key);
        let now_on = *copy.assignment().filter(|assignment| self.is_up(assignment.server_id))?;
        let is_free =
            camera.wants_recording() && copy.successor().is_none() && self.decision(key, camera).is_none();
        is_free.then_some((camera, copy, now_on))
    }

    /// Whether a move of the copy was given up a short while ago.
    pub(super) fn is_resting(&self, copy: &CameraCopy) -> bool {
        let rest_ms = i64::from(self.inputs.state.policy.moves.retry_after_s) * 1_000;
        copy.gave_up_at().is_some_and(|at| self.inputs.now.millis_since(at) < rest_ms)
    }

    pub(super) fn begin(
        &mut self,
        key: CopyKey,
        from: ServerId,
        server_id: ServerId,
        reason: AssignReason,
        budget: &mut usize,
    ) {
        let (camera, _) = self.copy(key);
        let bitrate_bps = index::bitrate(camera);
        self.rooms.take(server_id, bitrate_bps);
        self.rooms.leave(from, bitrate_bps);
        self.decide(key, camera, Decision::Move { server_id, reason });
        *budget -= 1;
    }

    /// Begins a move to `server_id` if that may have the copy.
    fn begin_if_room(
        &mut self,
        key: CopyKey,
        server_id: ServerId,
        reason: AssignReason,
        request: &Request<'a>,
        budget: &mut usize,
    ) {
        self.note(key, request);
        let (_, copy) = self.copy(key);
        let Some(from) = copy.assignment().map(|assignment| assignment.server_id) else { return };
        if self.rooms.may_have(server_id, request) {
            self.begin(key, from, server_id, reason, budget);
        }
    }

    /// Begins a move to the best server there is.
    fn begin_to_best(
        &mut self,
        key: CopyKey,
        reason: AssignReason,
        request: &Request<'a>,
        budget: &mut usize,
    ) {
        self.note(key, request);
        let (camera, copy) = self.copy(key);
        let Some(from) = copy.assignment().map(|assignment| assignment.server_id) else { return };
        let preferred = camera.settings.preferred_server_id;
        let preferred = preferred.filter(|server_id| self.rooms.may_have(*server_id, request));
        if let Some(server_id) = preferred.or_else(|| self.best(request)) {
            self.begin(key, from, server_id, reason, budget);
        }
    }

    /// Begins a move that cannot be put off: home if that has room, else to the best server there is.
    fn begin_home_or_to_best(
        &mut self,
        key: CopyKey,
        home: Option<ServerId>,
        reason: AssignReason,
        budget: &mut usize,
    ) {
        let request = self.request(key, home);
        match home.filter(|home| self.rooms.may_have(*home, &request)) {
            Some(home) => self.begin_if_room(key, home, AssignReason::Failback, &request, budget),
            None => self.begin_to_best(key, reason, &request, budget),
        }
    }

    fn move_to_wished(&mut self, budget: &mut usize) {
        for key in self.inputs.state.index().requested() {
            if *budget == 0 {
                return;
            }
            let Some((_, copy, _)) = self.movable(key) else { continue };
            let Some(wished) = copy.requested() else { continue };
            // Whoever wishes it does not ask whether that server takes over.
            let request = self.request(key, None);
            self.begin_if_room(key, wished, AssignReason::Requested, &request, budget);
        }
    }

    fn drain(&mut self, budget: &mut usize) {
        let state = self.inputs.state;
        for server_id in self.rooms.draining().to_vec() {
            let mut leaving: Vec<_> = state
                .index()
                .roster(server_id)
                .copies()
                .filter_map(|key| {
                    let (camera, copy, now_on) = self.movable(key)?;
                    let priority = camera.settings.failover_priority;
                    let goes = now_on.server_id == server_id
                        && priority != Priority::Never
                        && !self.is_resting(copy);
                    goes.then_some((priority, key.copy, key))
                })
                .collect();
            leaving.sort_unstable();
            for (.., key) in leaving {
                if *budget == 0 {
                    return;
                }
                let home = self.copy(key).1.home().unwrap_or(server_id);
                self.begin_home_or_to_best(key, Some(home), AssignReason::Drain, budget);
            }
        }
    }

    /// Copies whose server lacks a label that their camera asks for.
    fn move_to_labels(&mut self, budget: &mut usize) {
        for key in self.inputs.state.index().particular() {
            if *budget == 0 {
                return;
            }
            let Some((_, copy, now_on)) = self.movable(key) else { continue };
            let request = self.request(key, None);
            if self.is_resting(copy) || self.has_labels(now_on.server_id, &request) {
                continue;
            }
            self.begin_to_best(key, AssignReason::Labels, &request, budget);
        }
    }

    fn has_labels(&self, server_id: ServerId, request: &Request<'a>) -> bool {
        self.rooms.get(server_id).is_some_and(|room| room.has_labels(request.labels()))
    }

    /// Servers that hold more than they may give the last of it away: their capacity was lowered.
    fn relieve(&mut self, budget: &mut usize) {
        let over = self.rooms.all().filter(|(_, room)| room.surplus() > 0 || room.is_over_bitrate());
        let over: Vec<_> = over.map(|(server_id, _)| server_id).collect();
        for server_id in over {
            for key in self.last_to_stay(server_id) {
                let (camera, copy) = self.copy(key);
                let has_bitrate = index::bitrate(camera) > 0;
                let helps = self
                    .rooms
                    .get(server_id)
                    .is_some_and(|room| room.surplus() > 0 || (room.is_over_bitrate() && has_bitrate));
                if *budget == 0 {
                    return;
                }
                if helps {
                    self.begin_home_or_to_best(key, copy.home(), AssignReason::OverCapacity, budget);
                }
            }
        }
    }

    /// What a server holds, the least important first.
    fn last_to_stay(&self, server_id: ServerId) -> Vec<CopyKey> {
        let copies = self.inputs.state.index().roster(server_id).copies();
        let mut movable: Vec<_> = copies
            .filter_map(|key| {
                let (camera, copy, now_on) = self.movable(key)?;
                let goes = now_on.server_id == server_id && !self.is_resting(copy);
                // Who does not fail over is not unimportant: they are to stay where they are.
                let never = camera.settings.failover_priority == Priority::Never;
                goes.then_some((!never, camera.settings.failover_priority, key.copy, key))
            })
            .collect();
        movable.sort_unstable_by(|a, b| b.cmp(a));
        movable.into_iter().map(|(.., key)| key).collect()
    }

    fn fail_back(&mut self, budget: &mut usize) {
        let state = self.inputs.state;
        for home in state.index().homes() {
            let Some(server) = state.server(home).filter(|_| self.is_up(home)) else { continue };
            if !self.takes_back(server) {
                continue;
            }
            let mut away: Vec<_> = state
                .index()
                .away_from(home)
                .filter_map(|key| {
                    let (camera, copy, now_on) = self.movable(key)?;
                    let may_go = server.failback_requested || !camera.settings.single_session;
                    let goes = now_on.server_id != home && may_go && !self.is_resting(copy);
                    goes.then_some((camera.settings.failover_priority, key.copy, key))
                })
                .collect();
            away.sort_unstable();
            for (.., key) in away {
                if *budget == 0 {
                    return;
                }
                let request = self.request(key, Some(home));
                self.begin_if_room(key, home, AssignReason::Failback, &request, budget);
            }
        }
    }

    /// Whether cameras go back to a server that is up: policy says so and it has been back for long enough, or somebody
    /// asked for it.
    fn takes_back(&self, server: &Server) -> bool {
        let failback = self.inputs.state.policy.failback;
        let stable_ms = i64::from(failback.stable_s) * 1_000;
        let is_stable = self.inputs.now.millis_since(server.present_since) >= stable_ms;
        server.draining_since.is_none()
            && match failback.mode {
                Mode::Automatic => is_stable || server.failback_requested,
                Mode::Manual => server.failback_requested,
            }
    }

    /// Copies whose camera prefers another server than theirs.
    fn move_to_preferred(&mut self, budget: &mut usize) {
        for key in self.inputs.state.index().particular() {
            if *budget == 0 {
                return;
            }
            let Some((camera, copy, now_on)) = self.movable(key) else { continue };
            let Some(preferred) = camera.settings.preferred_server_id else { continue };
            // What others took over goes home first, by the rules of failback. Of several copies one can be there.
            if preferred != now_on.server_id && copy.home().is_none() && !self.is_resting(copy) {
                let request = self.request(key, None);
                self.begin_if_room(key, preferred, AssignReason::Preferred, &request, budget);
            }
        }
    }
}
