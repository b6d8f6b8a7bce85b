package replica

import "dfs/meta"

// Level is the level of the rows, see meta.Level: commands that came later cannot be
// proposed.
func (n *Node) Level() uint32 { return n.level.Load() }

// readable refuses rows of a level that this program does not understand.
func (n *Node) readable(r meta.Reader) error { return meta.NewView(r).Understood(n.cfg.Level) }

// readLevel finds out the level of the rows that are there now.
func (n *Node) readLevel() error {
	return n.store.View(func(r meta.Reader) error {
		if err := n.readable(r); err != nil {
			return err
		}
		level, _, err := meta.NewView(r).Level()
		n.level.Store(level)
		return err
	})
}

// permitted refuses commands that some master may not understand yet. The level never
// falls, so what is permitted stays so until it is applied.
func (n *Node) permitted(commands []meta.Command) error {
	has := n.Level()
	for i := range commands {
		if _, ok := commands[i].Op.(*meta.SetLevel); ok {
			continue // who gives it has asked all masters
		}
		if needs := meta.LevelOf(commands[i].Op); needs > has {
			return &meta.LevelError{Needs: needs, Has: has}
		}
	}
	return nil
}
