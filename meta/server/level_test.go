package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs/meta"
	"dfs/proto/adminpb"
)

func TestNewClusterHasTheProgramsLevel(t *testing.T) {
	s := startMaster(t)
	leads(t, s)
	if got := s.node.Level(); got != meta.Level {
		t.Errorf("level %d", got)
	}
}

// TestLevelRisesWhenAllMastersKnowIt: masters of an older program are replaced one by
// one. Nothing new is proposed before the last of them is; no older one is let in after.
func TestLevelRisesWhenAllMastersKnowIt(t *testing.T) {
	old := func(c *Config) { c.Level, c.Version = 1, "v1" }
	first := startMaster(t, old)
	leads(t, first)
	second := startMaster(t, old, func(c *Config) { c.Name, c.Bootstrap, c.Join = "master-2", false, []string{first.Addr()} })
	voters(t, first, 2)

	second = replace(t, second, 2)
	eventually(t, "the new master to take over", func() error {
		_, err := first.TransferLeader(t.Context(), &adminpb.TransferLeaderRequest{Name: second.Name()})
		if second.Leading() {
			return nil
		}
		return fmt.Errorf("it does not lead: %w", err)
	})
	l := leads(t, second)
	eventually(t, "the old master to be heard", func() error {
		if got := second.transport.levelOf(first.id.Node); got != 1 {
			return fmt.Errorf("level %d", got)
		}
		return nil
	})
	if err := l.raiseOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := second.node.Level(); got != 1 {
		t.Fatalf("raised to %d while a master knows 1", got)
	}
	if _, err := second.SetConfig(t.Context(), &adminpb.SetConfigRequest{Name: "repair-after", Value: "1m"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a new command was not refused: %v", err)
	}

	first = replace(t, first, 2)
	for _, s := range []*Server{first, second} {
		eventually(t, "the level to rise", func() error {
			if got := s.node.Level(); got != 2 {
				return fmt.Errorf("it is %d", got)
			}
			return nil
		})
	}

	third := startMaster(t, old, func(c *Config) { c.Name, c.Bootstrap, c.Join = "master-3", false, []string{second.Addr()} })
	select {
	case <-third.Done():
	case <-time.After(testTimeout):
		t.Fatal("an old master was let in")
	}
	if err := third.Err(); err == nil || !strings.Contains(err.Error(), `install dfs "v2"`) {
		t.Errorf("an old master was refused with %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := first.cfg
	cfg.Level = 1
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `written by dfs "v2"`) {
		t.Errorf("an old program on newer state: %v", err)
	}
}

func voters(t testing.TB, s *Server, want int) {
	t.Helper()
	eventually(t, "all votes", func() error {
		peers, _, err := s.node.Peers(t.Context())
		if err != nil {
			return err
		}
		n := 0
		for _, p := range peers {
			if p.Role == "voter" {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("%d votes", n)
		}
		return nil
	})
}

// again starts a master that was closed, with a program of a level.
func again(t testing.TB, s *Server, level uint32) *Server {
	t.Helper()
	cfg := s.cfg
	cfg.Bootstrap, cfg.Level, cfg.Version, cfg.Listen = false, level, fmt.Sprintf("v%d", level), s.Addr()
	next, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	return next
}

func replace(t testing.TB, s *Server, level uint32) *Server {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return again(t, s, level)
}
