imp_unit_test(storage_basic LINK imp_storage)
