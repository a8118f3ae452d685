imp_unit_test(storage_basic LINK imp_storage)
imp_unit_test(storage_powerloss LINK imp_storage TIMEOUT 180)
imp_unit_test(storage_fault LINK imp_storage)
