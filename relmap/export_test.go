package relmap

// LayoutColumn is a column as relmap believes a catalog to have it.
type LayoutColumn struct {
	Name  string
	Len   int16
	Align byte
}

// Layouts gives the columns of every catalog that is read, by its OID.
func Layouts(version int) map[uint32][]LayoutColumn {
	layouts := map[uint32][]LayoutColumn{}
	for catalog := range catalogColumns {
		for _, c := range layoutOf(catalog, version).columns {
			layouts[catalog] = append(layouts[catalog], LayoutColumn{c.name, c.len, c.align})
		}
	}
	return layouts
}
