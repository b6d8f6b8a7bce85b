package cluster

import (
	"context"
	"fmt"
	"testing"
)

// TestFiveMastersGoOnWithoutTwo: any two of five can be lost, the leader among them, and
// what was written is there.
func TestFiveMastersGoOnWithoutTwo(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Masters: 5, ChunkServers: 3})
	ctx := context.Background()
	fs := c.Client()
	write := func(i int) {
		t.Helper()
		if err := fs.WriteFile(ctx, root, fmt.Sprintf("/f%d", i), content(uint64(i), 10_000), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := fs.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	lost := []string{c.Leader()}
	c.Kill(lost[0])
	write(1)
	for _, m := range c.masters {
		if m.server != nil && len(lost) < 2 {
			lost = append(lost, m.name)
			c.Kill(m.name)
		}
	}
	write(2)
	for _, name := range lost {
		c.Restart(name)
	}
	c.WaitHealthy()
	reader := c.Client()
	for i := range 3 {
		got, err := reader.ReadFile(ctx, root, fmt.Sprintf("/f%d", i))
		if err != nil || string(got) != string(content(uint64(i), 10_000)) {
			t.Errorf("f%d: %d bytes, %v", i, len(got), err)
		}
	}
}
