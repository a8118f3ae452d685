imp_unit_test(directory_words LINK imp_im)
