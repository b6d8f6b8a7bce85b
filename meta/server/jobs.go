package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/proto/adminpb"
	"dfs/rpc"
)

// Jobs lists the long work that the cluster does now.
func (s *Server) Jobs(ctx context.Context, _ *adminpb.JobsRequest) (*adminpb.JobsReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	var m *dfs.ClusterMap
	var kept []meta.Job
	err := s.read(ctx, func(v meta.View) (err error) {
		if m, err = v.Map(); err == nil {
			kept, err = v.Jobs()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &adminpb.JobsReply{}
	add := func(j *adminpb.Job) {
		if j.Id == "" {
			j.Id = j.Kind
		}
		out.Jobs = append(out.Jobs, j)
	}
	if st := l.ledger.result(); st.chunks > 0 {
		j := &adminpb.Job{Kind: "repair", State: "runs", Left: st.bytes, Unit: "bytes", PerSecond: l.repairs.rate()}
		j.Text = fmt.Sprintf("%d chunks lack copies or fragments", st.chunks)
		if st.waiting > 0 {
			j.Text += fmt.Sprintf(", %d of these wait for a server", st.waiting)
		}
		if st.bytes == 0 {
			j.State = "waits"
		}
		add(j)
	}
	groups := map[dfs.NodeID]uint64{}
	for _, home := range m.Home {
		for _, id := range home {
			groups[id]++
		}
	}
	for i := range m.Servers {
		x := &m.Servers[i]
		if n := groups[x.ID]; n > 0 && (x.State == dfs.ServerDrain || x.Leaving && x.State != dfs.ServerGone) {
			j := &adminpb.Job{Id: "drain:" + x.Name, Kind: "drain", Target: x.Name, State: "runs", Left: n, Unit: "groups", Text: fmt.Sprintf("%d placement groups are still on it", n)}
			if x.State == dfs.ServerDown {
				j.State, j.Text = "waits", "the server is down; "+j.Text
			}
			add(j)
		}
	}
	for i := range m.Servers {
		x := &m.Servers[i]
		if s := l.repairs.scrubOf(x.ID); s != nil && serves(m, x.ID) {
			add(&adminpb.Job{
				Id: "scrub:" + x.Name, Kind: "scrub", Target: x.Name, State: "runs", Left: s.Total - min(s.Done, s.Total), Done: s.Done, Unit: "bytes",
				PerSecond: s.PerSecond, Text: "all that it has is read and checked",
			})
		}
	}
	if moves, chunks := l.repairs.movesLeft(m); moves > 0 {
		add(&adminpb.Job{Kind: "rebalance", State: "runs", Left: uint64(moves), Unit: "groups", Text: fmt.Sprintf("%d placement groups move now, with %d chunks to copy", moves, chunks)})
	}
	if n := l.reclaims.count(); n > 0 {
		add(&adminpb.Job{Kind: "reclaim", State: "runs", Left: uint64(n), Unit: "chunks", Text: fmt.Sprintf("dead records of %d chunks are given back", n)})
	}
	if l.checks.TryLock() {
		l.checks.Unlock()
	} else {
		add(&adminpb.Job{Kind: "check", State: "runs", Text: "somebody runs dfs check"})
	}
	for i := range kept {
		add(l.jobs.describe(&kept[i]))
	}
	return out, nil
}

// describe says how far a job is that is kept in the state.
func (j *jobs) describe(x *meta.Job) *adminpb.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := &adminpb.Job{
		Id: strconv.FormatUint(x.ID, 10), Kind: "convert", Target: x.Path, State: x.State.String(), Unit: "bytes", Done: x.Bytes,
		Folders: x.Folders, Files: x.Files, Changed: x.Changed, Unmoved: x.Left, Skipped: x.Skipped, Error: x.Error,
	}
	under := j.id == x.ID && x.State == meta.JobRuns
	if under {
		out.Done, out.Files, out.PerSecond = max(j.bytes, x.Bytes), max(j.files, x.Files), rateOf(&j.lately)
	}
	if x.Counted && !x.State.Ended() {
		out.Left = x.Total - min(x.Total, out.Done)
	}
	switch {
	case x.State == meta.JobRuns && j.of == x.ID && j.trouble != "":
		out.State, out.Text = "waits", j.trouble
	case x.State == meta.JobRuns && !under:
		out.State, out.Text = "waits", "others come first"
	case under && !x.Counted:
		out.Text = "counts what is to be moved"
	default:
		out.Text = fmt.Sprintf("%d files looked at, %d changed", out.Files, x.Changed)
		if x.Skipped > 0 {
			out.Text += fmt.Sprintf(", %d could not be: %s", x.Skipped, x.Error)
		}
	}
	return out
}

// startTries is how often a job is begun or changed, when somebody else does so at the same time.
const startTries = 8

// StartJob begins a job, or answers the one that does the same already.
func (s *Server) StartJob(ctx context.Context, req *adminpb.StartJobRequest) (*adminpb.StartJobReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	if req.Kind != "convert" {
		return nil, status.Errorf(codes.InvalidArgument, "no job of kind %.64q can be begun", req.Kind)
	}
	if s.cfg.Mover == nil {
		return nil, status.Error(codes.Unimplemented, "this master moves no bytes")
	}
	job := meta.Job{Revision: 1, Kind: meta.JobConvert, State: meta.JobRuns, Ino: dfs.Ino(req.Ino), Path: req.Path, Started: now()}
	for range startTries {
		var list []meta.Job
		var attr dfs.Attr
		err := s.read(ctx, func(v meta.View) (err error) {
			if attr, err = v.GetAttr(job.Ino); err == nil {
				list, err = v.Jobs()
			}
			return err
		})
		switch {
		case errors.Is(err, dfs.ESTALE):
			return nil, status.Errorf(codes.NotFound, "there is no inode %d", job.Ino)
		case err != nil:
			return nil, err
		case attr.IsDir():
			job.Places = []meta.Place{{Ino: job.Ino}}
		case attr.IsFile() && dfs.Layout(req.Layout).Valid():
			job.Layout = dfs.Layout(req.Layout)
		default:
			return nil, status.Errorf(codes.InvalidArgument, "inode %d is no folder, and no file with the policy that it is to have", job.Ino)
		}
		for i := range list {
			if x := &list[i]; x.Ino == job.Ino && x.Layout == job.Layout && !x.State.Ended() {
				return &adminpb.StartJobReply{Id: strconv.FormatUint(x.ID, 10)}, nil
			}
			job.ID = max(job.ID, list[i].ID)
		}
		job.ID++
		r, err := s.propose(ctx, &meta.PutJob{Job: job})
		switch {
		case err != nil:
			return nil, s.failure(err)
		case r.Errno == dfs.OK:
			kick(l.jobs.kick)
			return &adminpb.StartJobReply{Id: strconv.FormatUint(job.ID, 10)}, nil
		case r.Errno == dfs.EBUSY:
			return nil, status.Errorf(codes.ResourceExhausted, "there are %d jobs already: dfs jobs list", meta.JobsMax)
		case r.Errno != dfs.EAGAIN && r.Errno != dfs.EINVAL:
			return nil, r.Errno
		}
	}
	return nil, rpc.Unavailable("others begin jobs at the same time")
}

// builtin says of the jobs that the cluster begins by itself how they are to be ruled.
var builtin = map[string]string{
	"repair":    "it is what keeps data from being lost: dfs config set repair-rate bounds how fast it is",
	"rebalance": "dfs servers weight says what goes where, dfs config set repair-rate bounds how fast it is",
	"drain":     "dfs servers resume NAME ends it, dfs config set repair-rate bounds how fast it is",
	"reclaim":   "it only gives back space that nothing needs",
	"check":     "who has begun it ends it",
	"scrub":     "dfs config set scrub-rate and scrub-every say how fast and how often it is",
}

// ControlJob pauses, resumes or cancels a job that somebody has begun.
func (s *Server) ControlJob(ctx context.Context, req *adminpb.ControlJobRequest) (*adminpb.ControlJobReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	kind, _, _ := strings.Cut(req.Id, ":")
	if why := builtin[kind]; why != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "the cluster does %s by itself, and it cannot be paused or ended: %s", req.Id, why)
	}
	id, err := strconv.ParseUint(req.Id, 10, 64)
	if err != nil {
		return nil, status.Errorf(codes.NotFound, "no job is called %.64q: dfs jobs list", req.Id)
	}
	for range startTries {
		var list []meta.Job
		if err := s.read(ctx, func(v meta.View) (err error) { list, err = v.Jobs(); return err }); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list, func(x meta.Job) bool { return x.ID == id })
		if i < 0 {
			return nil, status.Errorf(codes.NotFound, "there is no job %d: dfs jobs list", id)
		}
		x := list[i]
		state := x.State
		switch req.Change {
		case adminpb.ControlJobRequest_PAUSE:
			state = meta.JobPaused
		case adminpb.ControlJobRequest_RESUME:
			state = meta.JobRuns
		case adminpb.ControlJobRequest_CANCEL:
			state = meta.JobCancelled
		}
		switch {
		case x.State.Ended() && x.State != state:
			return nil, status.Errorf(codes.FailedPrecondition, "job %d has ended: %v", id, x.State)
		case x.State == state:
			return &adminpb.ControlJobReply{}, nil
		}
		if x.State = state; state.Ended() {
			x.Ended, x.Places = now(), nil
		}
		x.Revision++
		r, err := s.propose(ctx, &meta.PutJob{Job: x})
		switch {
		case err != nil:
			return nil, s.failure(err)
		case r.Errno == dfs.OK:
			l.jobs.changed(id)
			return &adminpb.ControlJobReply{}, nil
		case r.Errno != dfs.EAGAIN && r.Errno != dfs.EINVAL:
			return nil, r.Errno
		}
	}
	return nil, rpc.Unavailable("the job changes at the same time")
}

// changed stops what is under way of a job.
func (j *jobs) changed(id uint64) {
	j.mu.Lock()
	if j.id == id {
		j.stop()
	}
	j.mu.Unlock()
	kick(j.kick)
}

// movesLeft is how many placement groups move, other than off a server that drains, and how many
// chunks are still to be copied for that.
func (r *repairs) movesLeft(m *dfs.ClusterMap) (groups, chunks int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, mv := range r.moves {
		from := m.Server(mv.from)
		if from != nil && from.State == dfs.ServerDrain || !slices.Contains(m.Home[mv.pg], mv.from) {
			continue
		}
		groups++
		chunks += len(mv.todo)
	}
	return groups, chunks
}

// count is in how many chunks holes are to be made.
func (r *reclaims) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.orders)
}
