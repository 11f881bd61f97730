package mapping

// ParsePattern reads a dotted name in the syntax of a mapping file: * and ?
// outside quotes, names folded and quoted as in SQL. It has as many parts as
// shape, such as "schema.relation".
func ParsePattern(text, shape string) (Pattern, error) { return parsePattern(text, shape) }
