package store

// goneMax is how many keys one generation of gone holds.
const goneMax = 16 << 10

// gone remembers keys of which it is certain that no row has them, the latest
// deleted ones. Pebble finds out that a row was deleted by walking over all older
// versions of it that are still in memory, so a name that is made and removed
// again and again, as a lock file is, would cost a little more each time. It holds
// two generations: when the younger is full, the older is forgotten.
type gone struct {
	young, old map[string]struct{}
}

func (g *gone) has(key []byte) bool {
	if _, ok := g.young[string(key)]; ok {
		return true
	}
	_, ok := g.old[string(key)]
	return ok
}

func (g *gone) add(key string) {
	if len(g.young) >= goneMax {
		g.old, g.young = g.young, nil
	}
	if g.young == nil {
		g.young = make(map[string]struct{})
	}
	g.young[key] = struct{}{}
}

func (g *gone) remove(key string) {
	delete(g.young, key)
	delete(g.old, key)
}

// changes is which rows a batch deleted, and which it brought back, so that gone
// can be asked and then kept right.
type changes struct {
	gone *gone
	dead map[string]struct{} // deleted by the batch, and not set since
	back map[string]struct{} // in gone, and set by the batch since
}

// absent reports that there is certainly no row.
func (c *changes) absent(key []byte) bool {
	if c.gone == nil {
		return false
	}
	if _, ok := c.dead[string(key)]; ok {
		return true
	}
	if !c.gone.has(key) {
		return false
	}
	_, ok := c.back[string(key)]
	return !ok
}

func (c *changes) set(key []byte) {
	delete(c.dead, string(key))
	if c.gone.has(key) {
		if c.back == nil {
			c.back = make(map[string]struct{})
		}
		c.back[string(key)] = struct{}{}
	}
}

func (c *changes) delete(key []byte) {
	delete(c.back, string(key))
	if c.dead == nil {
		c.dead = make(map[string]struct{})
	}
	c.dead[string(key)] = struct{}{}
}

// commit brings gone to what the batch did.
func (c *changes) commit() {
	for key := range c.back {
		c.gone.remove(key)
	}
	for key := range c.dead {
		c.gone.add(key)
	}
}
