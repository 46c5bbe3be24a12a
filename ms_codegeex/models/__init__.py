"""Model families, each as config, model, parallel plan and weight map; `layers` holds what they share."""
