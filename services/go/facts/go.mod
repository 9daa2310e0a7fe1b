module facts

go 1.19
