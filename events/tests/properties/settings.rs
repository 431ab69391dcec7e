//! What State keeps of a camera's settings, against what was told.

use longwatch_events::settings::KeptSettings;
use proptest::prelude::*;

use crate::arbitrary::camera_settings;

proptest! {
    #[test]
    fn kept_settings_are_what_was_told(told in camera_settings(), others in camera_settings()) {
        let kept = KeptSettings::from(&told);
        prop_assert_eq!(&kept.told(), &told);
        prop_assert_eq!(kept == KeptSettings::from(&others), told == others);
        prop_assert_eq!(kept.name(), &told.name);
        prop_assert_eq!(kept.labels().collect::<Vec<_>>(), told.labels.iter().collect::<Vec<_>>());
        prop_assert!(told.labels.iter().all(|(key, value)| kept.labels().value_of(key) == Some(value)));
        prop_assert_eq!(kept.server_labels(), Some(&told.server_labels).filter(|labels| !labels.is_empty()));
        prop_assert_eq!((&kept.source(), &kept.secret()), (&told.source, &told.source.secret));
        prop_assert_eq!(kept.wanted_copies(), told.wanted_copies());

        let json = serde_json::to_string(&kept).unwrap();
        prop_assert_eq!(&json, &serde_json::to_string(&told).unwrap());
        prop_assert_eq!(serde_json::from_str::<KeptSettings>(&json).unwrap(), kept);
    }
}
