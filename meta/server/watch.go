package server

import (
	"context"
	"sync"
	"time"

	"dfs"
	"dfs/meta"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// mapWatch is the cluster map as this master has it, made once for all who ask.
type mapWatch struct {
	mu      sync.Mutex
	m       *dfs.ClusterMap    // +checklocks:mu
	message *metapb.ClusterMap // +checklocks:mu — the same for the wire
	changed chan struct{}      // +checklocks:mu — closed at the next change; nil while nobody waits
}

func (w *mapWatch) set(m *dfs.ClusterMap) {
	message := rpc.ClusterMapToProto(m)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m, w.message = m, message
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// get answers the map, nil before there is any, and what is closed when there is
// another one. Neither form may be changed.
func (w *mapWatch) get() (*dfs.ClusterMap, *metapb.ClusterMap, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.m, w.message, w.changed
}

// mapNow is the map as this master had it a moment ago.
func (s *Server) mapNow() *dfs.ClusterMap {
	if m, _, _ := s.maps.get(); m != nil {
		return m
	}
	return &dfs.ClusterMap{}
}

// watchMap keeps Server.maps up to date with what is applied.
func (s *Server) watchMap() {
	for s.ctx.Err() == nil {
		seen := s.node.Applied()
		if err := s.lookAtMap(); err != nil {
			s.logger.Error("cannot read the cluster map", "err", err)
			if !pause(s.ctx, time.Second) {
				return
			}
		}
		if err := s.node.WaitApplied(s.ctx, seen); err != nil {
			return // one of both has ended
		}
		if !pause(s.ctx, mapLookEvery) {
			return
		}
	}
}

func (s *Server) lookAtMap() error {
	var m *dfs.ClusterMap
	have := s.mapNow().Epoch
	err := s.node.LocalRead(func(v meta.View) error {
		epoch, err := v.Epoch()
		if err != nil || epoch == have {
			return err
		}
		m, err = v.Map()
		return err
	})
	if err == nil && m != nil {
		s.maps.set(m)
	}
	return err
}

// WatchMap sends the map now and after each change. Every master answers; one that
// is behind sends what it has.
func (s *Server) WatchMap(req *metapb.WatchMapRequest, out metapb.Cluster_WatchMapServer) error {
	sent := req.Epoch
	if err := s.lookAtMap(); err != nil { // what the caller was told of must be in it
		return err
	}
	for {
		_, message, changed := s.maps.get()
		if message != nil && message.Epoch > sent {
			if err := out.Send(message); err != nil {
				return err
			}
			sent = message.Epoch
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return context.Cause(out.Context())
		case <-s.ctx.Done():
			return rpc.Unavailable("this master ends")
		}
	}
}
