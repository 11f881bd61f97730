package mapping

// Update is the flag that writes expected files anew.
var Update = update
