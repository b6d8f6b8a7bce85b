package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/meta"
	"dfs/placement"
	"dfs/proto/adminpb"
)

// maintenanceMax is for how long a server may be down on purpose.
const maintenanceMax = 7 * 24 * time.Hour

// SetServer changes what a chunk server is for.
func (s *Server) SetServer(ctx context.Context, req *adminpb.SetServerRequest) (*adminpb.SetServerReply, error) {
	l := s.leading.Load()
	if l == nil {
		return nil, s.notReady()
	}
	if req.Change == adminpb.SetServerRequest_MAINTENANCE && req.ForNanos > 0 {
		// What is missing must be known as it is now.
		if err := l.ledger.update(ctx); err != nil {
			return nil, s.failure(err)
		}
	}
	st := l.ledger.result()
	var m *dfs.ClusterMap
	var level uint32
	err := s.read(ctx, func(v meta.View) (err error) {
		if level, _, err = v.Level(); err != nil {
			return err
		}
		m, err = v.Map()
		return err
	})
	if err != nil {
		return nil, err
	}
	_, err = l.changeMap(ctx, func(servers []dfs.Server) ([]dfs.Server, error) {
		x, err := named(servers, req.Name)
		if err != nil {
			return nil, err
		}
		switch req.Change {
		case adminpb.SetServerRequest_DRAIN:
			err = drain(m, servers, x)
		case adminpb.SetServerRequest_REPLACE:
			err = replaced(m, servers, x, req.Successor)
		case adminpb.SetServerRequest_RESUME:
			x.Leaving = false
			if x.State == dfs.ServerDrain {
				x.State = dfs.ServerUp
			}
		case adminpb.SetServerRequest_REMOVE:
			if err := removable(m, x, &st, req.Force); err != nil {
				return nil, err
			}
			// Its id stays known, so that it cannot come back as if nothing had been; its name is free.
			x.State, x.Name = dfs.ServerGone, fmt.Sprintf("%s removed %s", x.Name, x.ID)
		case adminpb.SetServerRequest_MAINTENANCE:
			err = maintain(m, x, &st, time.Duration(req.ForNanos))
		case adminpb.SetServerRequest_WEIGHT:
			if x.Weighted = req.Weight > 0; x.Weighted {
				x.Weight = req.Weight
			} // else it tells itself when it joins again
		default:
			err = status.Error(codes.InvalidArgument, "a change of a chunk server that this master does not know")
		}
		if level < 2 && x.Leaving && x.State == dfs.ServerDrain {
			x.Leaving = false // masters of before could not read it; its death then ends the draining
		}
		return servers, err
	})
	return &adminpb.SetServerReply{}, s.failure(err)
}

// named finds a server that is part of the cluster.
func named(servers []dfs.Server, name string) (*dfs.Server, error) {
	i := slices.IndexFunc(servers, func(x dfs.Server) bool { return x.Name == name && x.State != dfs.ServerGone })
	if i < 0 {
		return nil, status.Errorf(codes.NotFound, "no chunk server is named %s", name)
	}
	return &servers[i], nil
}

// drain has the data of a server move to the others.
func drain(m *dfs.ClusterMap, servers []dfs.Server, x *dfs.Server) error {
	if x.State == dfs.ServerDown {
		return status.Errorf(codes.FailedPrecondition, "chunk server %s is down: nothing can be moved off it; bring it back, or remove it", x.Name)
	}
	x.State, x.Leaving = dfs.ServerDrain, true
	for layout := range layoutsOf(m) {
		if err := placement.Holds(servers, layout); err != nil {
			return status.Errorf(codes.FailedPrecondition, "without chunk server %s there are too few: %v", x.Name, err)
		}
	}
	return nil
}

// replaced is drain with a server that gets as much as the one that leaves had.
func replaced(m *dfs.ClusterMap, servers []dfs.Server, x *dfs.Server, successor string) error {
	y, err := named(servers, successor)
	switch {
	case err != nil:
		return err
	case x == y:
		return status.Errorf(codes.InvalidArgument, "chunk server %s cannot replace itself", x.Name)
	case y.State != dfs.ServerUp:
		return status.Errorf(codes.FailedPrecondition, "chunk server %s is %v: it takes no data", y.Name, y.State)
	case y.Zone != x.Zone:
		return status.Errorf(codes.FailedPrecondition, "chunk server %s is in zone %q, and %s in %q: start it with --zone %s, or drain %s instead", y.Name, y.Zone, x.Name, x.Zone, x.Zone, x.Name)
	}
	y.Weight, y.Weighted = x.Weight, true
	return drain(m, servers, x)
}

// maintain allows a server to be down for a while without being replaced.
func maintain(m *dfs.ClusterMap, x *dfs.Server, st *repairState, d time.Duration) error {
	switch {
	case d <= 0:
		x.Until = 0
		return nil
	case d > maintenanceMax:
		return status.Errorf(codes.InvalidArgument, "%v is too long: at most %v", d, maintenanceMax)
	case x.State == dfs.ServerDown: // that it is there any more does not depend on this
	default:
		if err := sparable(m, st, map[dfs.NodeID]bool{x.ID: true}); err != nil {
			return err
		}
	}
	x.Until = time.Now().Add(d).Unix()
	return nil
}

// sparable says why servers cannot be done without for a while: nothing must depend on them, and
// writes must go on.
func sparable(m *dfs.ClusterMap, st *repairState, without map[dfs.NodeID]bool) error {
	switch {
	case st.epoch != m.Epoch:
		return status.Error(codes.FailedPrecondition, "it is just being found out what is missing: try again in some seconds")
	case st.chunks > 0:
		return status.Errorf(codes.FailedPrecondition, "%d chunks lack copies or fragments already: wait until they are restored (dfs status)", st.chunks)
	}
	groups := 0
	for pg, acting := range m.Acting {
		left := 0
		for _, id := range acting {
			if id != 0 && !without[id] {
				left++
			}
		}
		if left < pg.Layout().MinWrite() {
			groups++
		}
	}
	if groups > 0 {
		return status.Errorf(codes.FailedPrecondition, "%d placement groups would have too few servers for writes", groups)
	}
	return nil
}

// removable says why a server must not be removed.
func removable(m *dfs.ClusterMap, x *dfs.Server, st *repairState, force bool) error {
	groups, pinned := 0, 0
	for pg, home := range m.Home {
		if slices.Contains(home, x.ID) {
			groups++
			if st.pinned[pg] {
				pinned++
			}
		}
	}
	switch {
	case groups == 0 || force:
		return nil
	case x.State != dfs.ServerDown:
		return status.Errorf(codes.FailedPrecondition, "chunk server %s is in %d placement groups: drain it first", x.Name, groups)
	case st.epoch != m.Epoch:
		return status.Errorf(codes.FailedPrecondition, "it is just being found out what depends on chunk server %s: try again in some seconds", x.Name)
	case pinned > 0:
		return status.Errorf(codes.FailedPrecondition, "in %d placement groups chunk server %s may have the only copy of something: bring it or the others back; --force gives that up for lost", pinned, x.Name)
	}
	return nil
}
