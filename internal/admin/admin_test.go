package admin_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"dfs/internal/admin"
)

func TestServerTellsHealthMetricsAndProfiles(t *testing.T) {
	var sick atomic.Bool
	s, err := admin.Serve("127.0.0.1:0", admin.NewRegistry(), func() error {
		if sick.Load() {
			return errors.New("no disk")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for path, want := range map[string]string{
		"/healthz": "ok", "/metrics": "go_goroutines", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/cmdline": "test",
	} {
		if code, text := get(path); code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: %d %.200s", path, code, text)
		}
	}
	sick.Store(true)
	if code, text := get("/healthz"); code != http.StatusServiceUnavailable || text != "no disk\n" {
		t.Errorf("health of a sick daemon: %d %s", code, text)
	}
	if _, err := admin.Serve(s.Addr(), nil, func() error { return nil }); err == nil {
		t.Error("two servers have one address")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get("http://" + s.Addr() + "/healthz"); err == nil {
		t.Error("it answers after Close")
	}
}
