package meta

import "dfs"

// SetConfig sets a setting of the whole cluster. It is part of the cluster map, by which
// the daemons learn of it. What names and values mean is for the leader to check: a
// later version may know others.
type SetConfig struct {
	Name  string
	Value string // empty: it is not set any more
}

func (o *SetConfig) apply(tx *tx) (Reply, error) {
	if err := tx.needOwn(); err != nil {
		return Reply{}, err
	}
	if o.Name == "" || len(o.Name) > dfs.SettingNameMax || len(o.Value) > dfs.SettingValueMax {
		return Reply{}, dfs.EINVAL
	}
	cl, err := tx.v.cluster()
	if err != nil {
		return Reply{}, err
	}
	cl.epoch++
	k := settingKey(o.Name)
	if o.Value == "" {
		err = tx.t.Delete(k)
	} else {
		err = tx.t.Set(k, appendString([]byte{rowVersion}, o.Value))
	}
	if err != nil {
		return Reply{}, err
	}
	return Reply{Epoch: cl.epoch}, tx.t.Set(key0(kindCluster), cl.encode(nil))
}

func settingKey(name string) []byte { return append(key0(kindSetting), name...) }

func decodeSetting(b []byte) (string, error) {
	d := decode("setting", b)
	v := d.string(dfs.SettingValueMax)
	return v, d.done()
}

// Config is what is set, by name; nil when nothing is.
func (v View) Config() (map[string]string, error) {
	var set map[string]string
	err := v.r.Scan(key0(kindSetting), key0(kindSetting+1), func(k, b []byte) (bool, error) {
		value, err := decodeSetting(b)
		if set == nil {
			set = map[string]string{}
		}
		set[string(k[1:])] = value
		return true, err
	})
	return set, err
}
