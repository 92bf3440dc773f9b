package v2

import (
	"encoding/json"
	"net/http"
	"time"

	"limpet/raftfsm"
)

const statsPath = "/v2/stats/"

// selfStats is what a member tells of itself (etcd v2stats.ServerStats). The
// rates, which etcd leaves out when they are 0, are not measured.
type selfStats struct {
	Name       string     `json:"name"`
	ID         string     `json:"id"`
	State      string     `json:"state"`
	StartTime  time.Time  `json:"startTime"`
	LeaderInfo leaderInfo `json:"leaderInfo"`
	Received   uint64     `json:"recvAppendRequestCnt"`
	Sent       uint64     `json:"sendAppendRequestCnt"`
}

type leaderInfo struct {
	Leader    string    `json:"leader"`
	Uptime    string    `json:"uptime"`
	StartTime time.Time `json:"startTime"`
}

func (f *Face) selfStats(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet) {
		return
	}
	status, figures := f.cfg.Node.Status(), f.cfg.Node.Figures()
	s := selfStats{
		ID: hex(status.MemberID), State: "StateFollower", StartTime: f.cfg.Started,
		LeaderInfo: leaderInfo{StartTime: f.cfg.Started},
		Received:   figures.ReceivedAppends, Sent: figures.SentAppends,
	}
	if status.Leader == status.MemberID {
		s.State = "StateLeader"
	}
	if self := f.cfg.Node.Membership().Self; self != nil {
		s.Name = self.Name
	}
	if figures.Leader != 0 {
		s.LeaderInfo.Leader, s.LeaderInfo.StartTime = hex(figures.Leader), figures.Since
	}
	s.LeaderInfo.Uptime = time.Since(s.LeaderInfo.StartTime).String()
	writeStats(w, s)
}

// leaderStats is what the leader tells of the others (etcd v2stats.LeaderStats).
type leaderStats struct {
	Leader    string              `json:"leader"`
	Followers map[string]follower `json:"followers"`
}

type follower struct {
	Latency latency `json:"latency"`
	Counts  counts  `json:"counts"`
}

// latency is how long appends took, in milliseconds.
type latency struct {
	Current           float64 `json:"current"`
	Average           float64 `json:"average"`
	StandardDeviation float64 `json:"standardDeviation"`
	Minimum           float64 `json:"minimum"`
	Maximum           float64 `json:"maximum"`
}

type counts struct {
	Fail    uint64 `json:"fail"`
	Success uint64 `json:"success"`
}

// neverMeasured is the minimum that etcd begins with.
const neverMeasured = 1 << 63

func (f *Face) leaderStats(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet) {
		return
	}
	status := f.cfg.Node.Status()
	if status.Leader != status.MemberID {
		writeMessage(w, http.StatusForbidden, "not current leader")
		return
	}
	s := leaderStats{Leader: hex(status.MemberID), Followers: map[string]follower{}}
	for _, p := range f.cfg.Node.Progress() {
		s.Followers[hex(p.ID)] = showFollower(p.Appends)
	}
	writeStats(w, s)
}

func showFollower(a raftfsm.Appends) follower {
	shown := follower{
		latency{Current: a.Newest, Average: a.Mean, StandardDeviation: a.Deviation(), Minimum: a.Shortest, Maximum: a.Longest},
		counts{Fail: a.Failed, Success: a.Done},
	}
	if a.Done == 0 {
		shown.Latency.Minimum = neverMeasured
	}
	return shown
}

// storeStats is what requests for keys came to here (etcd v2store.Stats).
type storeStats struct {
	GetsSuccess             uint64 `json:"getsSuccess"`
	GetsFail                uint64 `json:"getsFail"`
	SetsSuccess             uint64 `json:"setsSuccess"`
	SetsFail                uint64 `json:"setsFail"`
	DeleteSuccess           uint64 `json:"deleteSuccess"`
	DeleteFail              uint64 `json:"deleteFail"`
	UpdateSuccess           uint64 `json:"updateSuccess"`
	UpdateFail              uint64 `json:"updateFail"`
	CreateSuccess           uint64 `json:"createSuccess"`
	CreateFail              uint64 `json:"createFail"`
	CompareAndSwapSuccess   uint64 `json:"compareAndSwapSuccess"`
	CompareAndSwapFail      uint64 `json:"compareAndSwapFail"`
	CompareAndDeleteSuccess uint64 `json:"compareAndDeleteSuccess"`
	CompareAndDeleteFail    uint64 `json:"compareAndDeleteFail"`
	ExpireCount             uint64 `json:"expireCount"`
	Watchers                int    `json:"watchers"`
}

func (f *Face) storeStats(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet) {
		return
	}
	s := f.cfg.Node.V2().Stats()
	writeStats(w, storeStats{
		s.Gets.Success, s.Gets.Fail, s.Sets.Success, s.Sets.Fail, s.Deletes.Success, s.Deletes.Fail,
		s.Updates.Success, s.Updates.Fail, s.Creates.Success, s.Creates.Fail, s.Swaps.Success, s.Swaps.Fail,
		s.DeletesIf.Success, s.DeletesIf.Fail, s.Expired, s.Watchers,
	})
}

// writeStats answers with v, which can be marshalled, without a newline.
func writeStats(w http.ResponseWriter, v any) {
	body, _ := json.Marshal(v)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that has gone learns nothing
}
