package source

// formats has one line for each backup tool.
var formats = map[string]opener{}
