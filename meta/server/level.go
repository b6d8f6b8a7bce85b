package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs/meta"
)

// levelEvery is how often a leader looks whether all masters understand more.
const levelEvery = time.Second

// program is what a master says about the program that it runs.
type program struct {
	level   uint32 // 0: it is of a version that does not say, which is 1
	version string
}

// admits refuses a master that would not understand the state.
func (s *Server) admits(m meta.Master, p program) error {
	var needs uint32
	var by string
	err := s.node.LocalRead(func(v meta.View) (err error) {
		needs, by, err = v.Level()
		return err
	})
	if err != nil || max(p.level, 1) >= needs {
		return err
	}
	return status.Errorf(codes.PermissionDenied, "master %s runs dfs %q, which knows format level %d, and the metadata has level %d: install dfs %q or a later version there",
		m.Name, p.version, max(p.level, 1), needs, by)
}

// raiseLevel raises the level of the state to what all masters understand.
func (l *leadership) raiseLevel() {
	for l.s.node.Level() < l.s.cfg.Level && pause(l.ctx, levelEvery) {
		l.log("cannot raise the format level", l.raiseOnce(l.ctx))
	}
}

func (l *leadership) raiseOnce(ctx context.Context) error {
	l.levelMu.Lock()
	defer l.levelMu.Unlock()
	s := l.s
	peers, _, err := s.node.Peers(ctx)
	if err != nil {
		return err
	}
	level := s.cfg.Level
	for _, p := range peers {
		level = min(level, s.transport.levelOf(p.ID))
	}
	if level <= s.node.Level() {
		return nil
	}
	if err := s.carry(ctx, &meta.SetLevel{Level: level, Program: s.cfg.Version}); err != nil {
		return err
	}
	s.logger.Info("the metadata has a new format level: older versions of dfs cannot read it from now on", "level", level)
	return nil
}
